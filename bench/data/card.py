"""The YAML card of a dataset: description, files with hashes, layout, sections and patients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bench.data.stored_files import is_stored, stored_hash, stored_size
from bench.errors import DataError, UnknownNameError
from bench.faults import first_fault
from bench.files import canonical_hash
from bench.yaml_files import read_yaml

_HASH = re.compile(r"(git-blob:[0-9a-f]{40}|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})")


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ":" in path or ".." in parts:
        raise ValueError(f"'{path}' must be a relative path inside the data folder")
    return path


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise ValueError(f"'{value}' must be made of letters, digits, '_', '.' and '-'")
    return value


InsidePath = Annotated[str, AfterValidator(_inside)]
Name = Annotated[str, AfterValidator(_name)]
Setting = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,31}$")]
Module = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

FEWEST_BLOCKS, MOST_BLOCKS = 2, 16
"""Blocks that a section can be divided into."""


def _block(value: tuple[int, int]) -> tuple[int, int]:
    number, of = value
    if number > of:
        raise ValueError(f"there is no block {number} of {of}")
    return value


Block = Annotated[
    tuple[
        Annotated[int, Field(strict=True, ge=1)],
        Annotated[int, Field(strict=True, ge=FEWEST_BLOCKS, le=MOST_BLOCKS)],
    ],
    AfterValidator(_block),
]


class _Card(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileCard(_Card):
    """One file: its path in the data folder, its address and its hash.

    A Zarr store, or a group or an array of one, counts as a file; its hash is over the names and
    contents of all files in it.

    Attributes
    ----------
    path
        Path relative to the data folder.
    url
        Address of the file; ``base_url`` of the card plus `path` where None.
    hash, size
        Hash and bytes of the file in the data folder, that is after unpacking.
    archive, member
        Archive of the card that contains the file, and its name in the archive.
    unpack
        ``gzip``: the address serves it compressed; it is stored uncompressed.
    by_hand
        Instruction for a manual download, where no address serves it directly.
    """

    path: InsidePath
    url: str | None = None
    hash: str | None = None
    size: int | None = Field(default=None, ge=0)
    archive: Name | None = None
    member: InsidePath | None = None
    unpack: Literal["gzip"] | None = None
    by_hand: str | None = None

    @field_validator("hash")
    @classmethod
    def _known_form(cls, value: str | None) -> str | None:
        if value is not None and not _HASH.fullmatch(value):
            raise ValueError(f"'{value}' is not git-blob:<sha1>, sha256:<hex> or md5:<hex>")
        return value

    def verify(self, path: Path) -> str:
        """Hash of the file at `path` after comparing it with the card.

        Returns
        -------
        str
            ``algorithm:hex``; SHA-256 where the card names no hash.

        Raises
        ------
        DataError
            The file is missing, or differs from the card in size or hash; a link leads out of a
            Zarr store.
        """
        if not is_stored(path):
            raise DataError(f"{path}: file is missing")
        actual, fault = self.compare(path)
        if fault:
            raise DataError(f"{path}: {fault}; fetch it again")
        return actual

    def compare(self, path: Path) -> tuple[str, str | None]:
        """Compare an existing file with the card.

        Returns
        -------
        tuple of str and (str or None)
            Hash as ``algorithm:hex`` (SHA-256 where none is known), empty where the size differs;
            and the difference, if any.
        """
        size = stored_size(path)
        if self.size is not None and size != self.size:
            return "", self._differs(f"{size} bytes", str(self.size))
        algorithm = self.hash.partition(":")[0] if self.hash else "sha256"
        actual = f"{algorithm}:{stored_hash(path, algorithm)}"
        if self.hash and actual != self.hash:
            return actual, self._differs(f"hash {actual}", self.hash)
        return actual, None

    def _differs(self, actual: str, stated: str) -> str:
        return f"{actual}, the card says {stated}"


class SectionCard(_Card):
    """One tissue section: its patient and its files by role.

    Attributes
    ----------
    name, patient
        Names of the section and of its patient.
    files
        Roles are ``counts``, ``image`` and those of the layout's reader: ``spots``, ``labels``,
        ``scalefactors``, ``barcodes``, ``features``.
    spots
        Number of spots in the section as read.
    micrometres_per_pixel
        Scale of the pixels in which spot coordinates are given; the card's where None.
    image_scale
        Pixels of the image file per pixel of the spot coordinates: 1 unless the image is a
        reduced one.
    settings
        Keyword arguments of the layout's reader for this section, such as ``library``.
    block
        ``[number, of]``: this section is one of `of` blocks of the spots in its files, counted
        from 1; see :func:`bench.data.section.block_spots`. None: all spots.
    """

    name: Name
    patient: Name
    files: dict[str, FileCard]
    spots: int | None = Field(default=None, ge=1)
    micrometres_per_pixel: float | None = Field(default=None, gt=0)
    image_scale: float = Field(default=1.0, gt=0, le=1)
    settings: dict[Setting, str | int] = {}
    block: Block | None = None

    def block_of(self, hashes: Mapping[str, str]) -> str | None:
        """Identifier that all blocks of one section share; None where it is not divided.

        Parameters
        ----------
        hashes
            Hash of each usable file by role: sections of other content are never taken for one,
            whatever the names of their files.
        """
        if self.block is None:
            return None
        files = {role: [self.files[role].path, value] for role, value in hashes.items()}
        return canonical_hash([files, self.settings, self.block[1]])

    def replaced(self, files: Mapping[str, Mapping[str, Any]], *, where: str) -> SectionCard:
        """The same section with other file cards in some roles.

        Raises
        ------
        DataError
            A file card breaks the schema, such as a path that leaves the data folder.
        """
        try:
            new = {role: FileCard.model_validate(dict(file)) for role, file in files.items()}
        except ValidationError as error:
            raise DataError(f"{where}: section {self.name}: {first_fault(error)}") from error
        return self.model_copy(update={"files": {**self.files, **new}})


class PanelCard(_Card):
    """A named gene list: its published file, and the same list as plain text.

    Attributes
    ----------
    genes
        Number of genes.
    symbols_sha256
        SHA-256 of the symbols joined by newlines, whatever file they came from; None where the
        list is not known before its file is fetched.
    file
        Published file of the list.
    text
        Text file with one symbol a line, in the data folder or in the folder that holds it.
    source
        Where the list is from.
    """

    genes: int = Field(ge=1)
    symbols_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    file: FileCard | None = None
    text: InsidePath | None = None
    source: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.symbols_sha256 is None and self.file is None:
            raise ValueError("name symbols_sha256, or the file of the gene list")
        return self

    @property
    def identity(self) -> str | None:
        """Hash of the list: of its symbols, otherwise of its file where that is known."""
        return self.symbols_sha256 or (self.file.hash if self.file else None)


class HubCard(_Card):
    """Folder of a dataset repository on Hugging Face.

    Attributes
    ----------
    repository
        Name of the repository.
    folder
        Folder in it whose content becomes the data folder.
    revision
        Commit or branch.
    leave_out
        Folders in it that are not fetched.
    """

    repository: str = Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")
    folder: InsidePath
    revision: str = Field(default="main", pattern=r"^[A-Za-z0-9_.-]+$")
    leave_out: tuple[InsidePath, ...] = ()

    @property
    def page(self) -> str:
        """Address of the page where access is asked for."""
        return f"https://huggingface.co/datasets/{self.repository}"


class DatasetCard(_Card):
    """Everything the harness knows about a dataset.

    Attributes
    ----------
    name, title
        Name that users type, and a line about the dataset.
    citation, licence, source, doi
        Publication, licence of the files, where they come from, and their DOI.
    platform, tissue
        Platform of the measurement, and tissue.
    layout
        Layout of its sections' files, which decides the reader: a module of ``bench.datasets``
        that reads, or an entry point of the group ``spotbench.readers``. Cards may also call it
        ``reader``.
    base_url
        Address that paths of files are appended to.
    listing
        Address of a list of files with their hashes, as Mendeley Data gives it.
    index
        File that states the file names of each section; the reader's ``resolve`` reads it.
    archives
        Archives that files are members of, by name.
    shares_patients_with
        Other datasets that may include some of the same patients, with the reason.
    folder
        Data folder of a user's own dataset.
    note
        Remark for readers of the card.
    generator
        Module of ``bench.datasets`` that makes the files on this machine.
    patch_pixels
        Edge of the patches in pixels of the spot coordinates, unless a setting changes it.
    micrometres_per_pixel
        Scale of the pixels in which spot coordinates are given. Where neither the card nor the
        section names it, it is ``spot_pitch_micrometres`` over the pitch of the section's spots.
    spot_pitch_micrometres, spot_diameter_micrometres
        Of the array.
    max_image_pixels
        Largest number of pixels of an image that is read; a larger one is refused.
    sections
        Tissue sections.
    panels
        Gene lists by name.
    published_order, published_panel
        Sections and gene list of the published protocol.
    fold_lists
        Folder of the files ``train_<i>.csv`` and ``test_<i>.csv`` that list the dataset's own
        folds.
    patient_folds
        Test patients of each published fold, every patient in one of them; at least two folds.
    hub
        Repository on Hugging Face that the files are fetched from.
    collection
        Name that stands for this dataset together with others of the same collection.
    cautions
        Known problems of the data, a line each, which the audit and tables repeat.
    """

    name: Name
    title: str
    citation: str
    licence: str
    platform: str
    tissue: str
    source: str
    layout: Annotated[
        str,
        Field(pattern=r"^[a-z][a-z0-9_]*$", validation_alias=AliasChoices("layout", "reader")),
    ]
    base_url: str | None = None
    listing: str | None = None
    index: FileCard | None = None
    archives: dict[str, FileCard] = {}
    shares_patients_with: dict[str, str] = {}
    folder: str | None = None
    doi: str | None = None
    note: str = ""
    generator: Module | None = None
    patch_pixels: int = Field(ge=8, le=4096)
    micrometres_per_pixel: float | None = Field(default=None, gt=0)
    spot_pitch_micrometres: float | None = Field(default=None, gt=0)
    spot_diameter_micrometres: float = Field(gt=0)
    max_image_pixels: int = Field(ge=1)
    sections: tuple[SectionCard, ...] = Field(min_length=1)
    published_order: tuple[str, ...] = ()
    published_panel: str | None = None
    panels: dict[str, PanelCard] = {}
    fold_lists: InsidePath | None = None
    patient_folds: tuple[tuple[str, ...], ...] = ()
    hub: HubCard | None = None
    collection: Name | None = None
    cautions: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [section.name for section in self.sections]
        if len(set(names)) != len(names):
            raise ValueError("two sections have the same name")
        if self.patient_folds:
            listed = [patient for fold in self.patient_folds for patient in fold]
            every = {section.patient for section in self.sections}
            if sorted(listed) != sorted(every) or not all(self.patient_folds):
                raise ValueError("patient_folds must name every patient in one fold")
        unknown = set(self.published_order) - set(names)
        if unknown:
            raise ValueError(f"published_order names unknown sections {sorted(unknown)}")
        if len(set(self.published_order)) != len(self.published_order):
            raise ValueError("published_order names a section twice")
        unscaled = [section.name for section in self.sections if self.scale(section) is None]
        if unscaled and self.spot_pitch_micrometres is None:
            raise ValueError(
                f"section {unscaled[0]}: name micrometres_per_pixel, or spot_pitch_micrometres"
            )
        for file in (file for section in self.sections for file in section.files.values()):
            if file.archive is not None and file.archive not in self.archives:
                raise ValueError(f"{file.path} names an unknown archive '{file.archive}'")
            if (file.archive is None) != (file.member is None):
                raise ValueError(f"{file.path} must name an archive and its member, or neither")
        self._check_blocks()
        if self.published_panel is not None and self.published_panel not in self.panels:
            raise ValueError(f"published_panel '{self.published_panel}' is not among the panels")
        return self

    def _check_blocks(self) -> None:
        """Refuse blocks that share spots, or that hide from a patient split that they are one's."""
        same_spots: dict[str, list[SectionCard]] = {}
        for section in self.sections:
            paths = {role: file.path for role, file in section.files.items()}
            same_spots.setdefault(canonical_hash([paths, section.settings]), []).append(section)
        for sections in same_spots.values():
            blocks = [section.block for section in sections if section.block is not None]
            if not blocks:
                continue
            where = f"sections {join_names(section.name for section in sections)} of the same files"
            if len(blocks) < len(sections) or len({of for _, of in blocks}) > 1:
                raise ValueError(f"{where} must all be blocks of one division")
            if len(set(blocks)) < len(blocks):
                raise ValueError(f"{where} name a block twice")
            if len({section.patient for section in sections}) > 1:
                raise ValueError(f"{where} must be of one patient")

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients in the order in which the sections name them."""
        return tuple(dict.fromkeys(section.patient for section in self.sections))

    def scale(self, section: SectionCard) -> float | None:
        """Micrometres per pixel of a section's spot coordinates; None: from the spots' pitch."""
        return section.micrometres_per_pixel or self.micrometres_per_pixel

    def url(self, file: FileCard) -> str | None:
        """Address a file can be fetched from, where the card knows one."""
        if file.url:
            return file.url
        return f"{self.base_url}{file.path}" if self.base_url else None

    def section(self, name: str) -> SectionCard:
        """Section by name; :class:`UnknownNameError` when there is none."""
        for section in self.sections:
            if section.name == name:
                return section
        raise UnknownNameError("section", name, (s.name for s in self.sections))


def read_card(path: Path) -> DatasetCard:
    """Read and check a card.

    Parameters
    ----------
    path
        YAML file.

    Returns
    -------
    DatasetCard
        Checked card.

    Raises
    ------
    DataError
        The file is missing, is not YAML, or does not follow the schema; the first fault is named.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: a card must be a mapping of fields")
    try:
        return DatasetCard.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error, content)}") from error


def join_names(names: Iterable[str], limit: int = 8) -> str:
    """Names as a comma list, shortened after `limit`."""
    listed = list(names)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"
