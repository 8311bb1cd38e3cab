"""A dataset on this machine: its card, its folder, and its usable sections."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from bench.data.aliases import Aliases, read_aliases
from bench.data.card import DatasetCard, FileCard, SectionCard
from bench.data.folders import data_folder
from bench.data.layouts import reader_hash, resolve
from bench.data.lock import locked
from bench.data.section import Section, load_section
from bench.data.stored_files import is_stored
from bench.errors import DataError
from bench.files import canonical_hash

PICTURES = ("image", "patches")
"""Roles that methods which look at images can use; patches are needed by every method, because
spots without one are left out."""

NO_IMAGE = "the card names no image"
"""Reason to leave out a section that was added without an image."""

OPTIONAL = ("labels",)
"""Roles that no section needs; an image is needed only by methods that look at images."""


@dataclass(frozen=True)
class Dataset:
    """Sections whose files exist and have the hashes of the card.

    Attributes
    ----------
    card
        Description of the dataset.
    root
        Data folder.
    hashes
        Section name to role to ``algorithm:hex``; the roles in use, in the order of folds.
    left_out
        Section name to the reason why it is not used.
    aliases
        Genes of the sections are named by these, where given.
    """

    card: DatasetCard
    root: Path
    hashes: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str]
    aliases: Aliases | None = None

    def __iter__(self) -> Iterator[Section]:
        """Read the usable sections one by one."""
        for name in self.hashes:
            yield self.section(name)

    def only(self, names: Sequence[str]) -> Dataset:
        """The dataset restricted to the named sections, in its own order."""
        return replace(self, hashes={n: of for n, of in self.hashes.items() if n in names})

    @property
    def sections(self) -> Mapping[str, Section]:
        """Usable sections by name, each read when it is asked for and not held for long."""
        return _Sections(self)

    def section(self, name: str) -> Section:
        """One usable section; folds ask for the same ones, so the latest are kept in memory."""
        if name not in self.hashes:
            reason = self.left_out.get(name, "not part of this selection")
            raise DataError(f"section {name} of {self.card.name} is not usable: {reason}")
        hashes = self.hashes[name]
        spelling = self.aliases.sha256 if self.aliases else ""
        key = (self.root, self.card.model_dump_json(), name, json.dumps(dict(hashes)) + spelling)
        if key not in _kept:
            section = load_section(self.card, self.card.section(name), self.root, hashes)
            if self.aliases is not None:
                section.adata.var_names = self.aliases.rename(list(section.adata.var_names))[0]
            if _bytes(section) > KEPT_BYTES:
                return section
            _kept[key] = section
        return _kept[key]

    @property
    def hash(self) -> str:
        """SHA-256 over the files and card fields that determine the inputs of a method.

        The reader is left out: its result is hashed by content.
        """
        return canonical_hash(self._facts(set(OPTIONAL)))

    @property
    def hash_without_images(self) -> str:
        """As :attr:`hash`, for methods that do not look at images."""
        return canonical_hash(self._facts({*OPTIONAL, "image"}))

    @property
    def tables_hash(self) -> str:
        """As :attr:`hash_without_images`, with the reader: equal for runs with the same truth."""
        reader = reader_hash(self.card.layout)
        return canonical_hash({**self._facts({*OPTIONAL, "image"}), "reader": reader})

    def _facts(self, without: set[str]) -> dict[str, Any]:
        sections: dict[str, dict[str, Any]] = {}
        for name, hashes in self.hashes.items():
            card = self.card.section(name)
            sections[name] = {
                "patient": card.patient,
                "scale": self.card.scale(card),
                "image_scale": card.image_scale,
                "files": {role: value for role, value in hashes.items() if role not in without},
            }
            # Only where there is one: the keys of other datasets stay as they are.
            if card.block is not None:
                sections[name]["block"] = card.block
            if "gene_column" in card.settings:
                sections[name]["gene_column"] = card.settings["gene_column"]
        panels = {name: panel.identity for name, panel in self.card.panels.items()}
        return {
            "name": self.card.name,
            "aliases": self.aliases.sha256 if self.aliases else None,
            "patch_pixels": self.card.patch_pixels,
            "panels": panels,
            "sections": sections,
        }


class _Sections(Mapping[str, Section]):
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, name: str) -> Section:
        return self._dataset.section(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.hashes)

    def __len__(self) -> int:
        return len(self._dataset.hashes)


KEPT_BYTES = 400_000_000
"""Counts of sections that are kept in memory."""


def _bytes(section: Section) -> int:
    counts = section.adata.X
    return int(counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes)


_kept: LRUCache[tuple[Path, str, str, str], Section] = LRUCache(KEPT_BYTES, getsizeof=_bytes)


def local_card(card: DatasetCard, root: Path) -> DatasetCard:
    """The card as it holds on this machine.

    Files are named by the card's index, where it has one, and hashes that the card does not name
    come from the lock file.

    Raises
    ------
    DataError
        The index or the lock file is missing or damaged.
    """
    if card.index is not None:
        # Paths of the card may be placeholders until the index is read: only its own hash counts.
        index = locked(card, root).index
        card = resolve_card(card.model_copy(update={"index": index}), root)
    return _with_hashed_panels(locked(card, root), root)


def _with_hashed_panels(card: DatasetCard, root: Path) -> DatasetCard:
    """The card with the hash of the file of each gene list whose symbols it does not hash."""
    panels = dict(card.panels)
    for name, panel in card.panels.items():
        if panel.symbols_sha256 is None and panel.file and (root / panel.file.path).is_file():
            actual = panel.file.verify(root / panel.file.path)
            file = panel.file.model_copy(update={"hash": actual})
            panels[name] = panel.model_copy(update={"file": file})
    return card if panels == card.panels else card.model_copy(update={"panels": panels})


def resolve_card(card: DatasetCard, root: Path) -> DatasetCard:
    """The card with the files that its index names, as its reader's ``resolve`` reads them.

    Raises
    ------
    DataError
        The index is missing, differs from the card, or says nothing that the reader understands.
    """
    if card.index is None:
        return card
    path = root / card.index.path
    if not path.is_file():
        raise DataError(
            f"{path}: file is missing; it states the names of the other files, fetch it with"
            f" 'bench data get {card.name}'"
        )
    card.index.verify(path)
    return resolve(card, root)


def open_dataset(
    card: DatasetCard,
    data_root: Path | None = None,
    *,
    images: bool | None = True,
    names: Sequence[str] | None = None,
    aliases: Path | None = None,
) -> Dataset:
    """Verify the files of a dataset and say which sections can be used.

    A section whose files are all absent is left out; so is one without an image where images
    are needed. A section with only some of its tables, or with a file that differs from the
    card, is an error.

    Parameters
    ----------
    card
        Description of the dataset.
    data_root
        Its folder; see :func:`data_folder`.
    images
        Whether images are needed. If not, they are neither read nor hashed; None takes those that
        are there.
    names
        Sections asked for, in order; all of the card where None.
    aliases
        Table of gene symbols by which genes are renamed; see :mod:`bench.data.aliases`.

    Raises
    ------
    DataError
        A damaged or half-present section, or no usable section at all.
    """
    root = data_folder(card, data_root)
    card = local_card(card, root)
    shared = _shared_paths(card)
    verified: dict[FileCard, str] = {}
    hashes: dict[str, dict[str, str]] = {}
    left_out: dict[str, str] = {}
    for name in names or [section.name for section in card.sections]:
        section = card.section(name)
        reason = _absent(section, root, bool(images), shared)
        if reason:
            left_out[name] = reason
            continue
        pictured = "image" in section.files and is_stored(_path(section, "image", root))
        seen = pictured if images is None else images and "image" in section.files
        roles = [*required_roles(section), *(["image"] if seen else [])]
        roles += [r for r in OPTIONAL if r in section.files and is_stored(_path(section, r, root))]
        for role in roles:
            file = section.files[role]
            if file not in verified:  # blocks share files, which may be large
                verified[file] = _verify(card, file, _path(section, role, root))
        hashes[name] = {role: verified[section.files[role]] for role in roles}
    if not hashes:
        name, reason = next(iter(left_out.items()))
        raise DataError(
            f"no section of {card.name} can be used in {root}; section {name}: {reason}"
        )
    return Dataset(card, root, hashes, left_out, read_aliases(aliases) if aliases else None)


def advice_on_difference(card: DatasetCard) -> str:
    """What to do about a file that differs from its card: files of the user's own have no source.

    Parameters
    ----------
    card
        Card that names the file.

    Returns
    -------
    str
        End of a message.
    """
    if card.folder is None:
        return "fetch it again"
    return (
        "it has changed since it was added; if that was intended, repeat 'bench data add"
        f" ... --name {card.name} --replace'"
    )


def _verify(card: DatasetCard, file: FileCard, path: Path) -> str:
    if card.folder is None or not is_stored(path):
        return file.verify(path)
    actual, fault = file.compare(path)
    if fault:
        raise DataError(f"{path}: {fault}; {advice_on_difference(card)}")
    return actual


def known_sections(card: DatasetCard, names: Sequence[str]) -> tuple[str, ...] | None:
    """Names of sections as they were asked for; None where none was, which means all.

    Raises
    ------
    UnknownNameError
        The card has no section of that name; the nearest ones are offered.
    """
    for name in names:
        card.section(name)
    return tuple(names) or None


def required_roles(section: SectionCard) -> list[str]:
    """Roles without which a section cannot be read: all but image and labels.

    Raises
    ------
    DataError
        The section names no counts.
    """
    if "counts" not in section.files:
        raise DataError(f"card: section {section.name} names no counts file")
    return [role for role in section.files if role not in {"image", *OPTIONAL}]


def _shared_paths(card: DatasetCard) -> set[str]:
    """Paths of files that several sections use, where these are not blocks of one section."""
    files = {
        tuple(sorted(file.path for file in section.files.values()))
        if section.block
        else section.name: section.files
        for section in card.sections
    }
    paths = Counter(file.path for of in files.values() for file in of.values())
    return {path for path, sections in paths.items() if sections > 1}


def _path(section: SectionCard, role: str, root: Path) -> Path:
    return root / section.files[role].path


def _absent(section: SectionCard, root: Path, images: bool, shared: Collection[str]) -> str | None:
    required = required_roles(section)
    missing = [role for role in required if not is_stored(_path(section, role, root))]
    # A file that all sections share says nothing of whether this one is there.
    own = [role for role in required if section.files[role].path not in shared]
    if missing and set(own) <= set(missing):
        return f"{section.files['counts'].path} is missing"
    if missing:
        raise DataError(
            f"{_path(section, missing[0], root)}: file is missing, while other files of section"
            f" {section.name} are there"
        )
    if images and not set(PICTURES) & set(section.files):
        return NO_IMAGE
    if images and "image" in section.files and not is_stored(_path(section, "image", root)):
        return f"image {section.files['image'].path} is missing"
    return None
