"""Model bundles: one file from which a stored run predicts on another machine."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.data.card import FileCard, InsidePath, read_card
from bench.errors import BenchError, DataError
from bench.faults import first_fault
from bench.fetch.archives import DAMAGE, copy_bounded, extract
from bench.files import one_line
from bench.method import Precision
from bench.method_references import is_own
from bench.prediction.places import other_kind
from bench.prediction.stored_models import FittedFold, StoredModel
from bench.prediction.training_images import TrainingImages, TrainingPatches, same_file
from bench.registry import load_method
from bench.store import RUN, RunFolder
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from bench.method import Context, MethodConfig

SUFFIX = ".spotbench"
CONTENT = "bundle.json"
CARD = "card.yaml"
REFERENCE = "training.npz"
FORMAT = 1
_LARGEST_CONTENT = 256 << 20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


IMAGE_HASH = r"^(sha256|git-blob|md5):[0-9a-f]+$"


class _File(_Part):
    hash: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0)


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"'{one_line(twice, 40)}' occurs more than once")
    return values


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_once)]
Fold = Annotated[int, Field(ge=0, strict=True)]
Micrometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _BundledFit(_Part):
    name: Text
    folder: InsidePath
    config: dict[str, Any]
    panel: Texts
    sections: Texts
    precision: Precision


class BundleContent(_Part):
    """What a bundle says of itself.

    Attributes
    ----------
    format
        Of bundles; another one is refused.
    spotbench
        Version that wrote it.
    key, method, label, dataset, protocol
        Key of the run, its method, and where it stood in tables.
    licence, citation
        Of the dataset.
    encoder
        Name, licence and citation of the image encoder, whose weights are not in the bundle.
    done
        Folds whose scores are in it.
    fits
        Fits whose predictions are averaged.
    scales, images
        Micrometres a pixel, and SHA-256 of the images by section, of the training.
    files
        Hash and size of every other member.
    """

    format: Literal[1]
    spotbench: str
    key: Text
    method: Text
    label: Text
    dataset: Text
    protocol: Text
    licence: str
    citation: str
    encoder: dict[str, str]
    done: Annotated[tuple[Fold, ...], Field(min_length=1), AfterValidator(_once)]
    fits: tuple[_BundledFit, ...] = Field(min_length=1)
    scales: tuple[Micrometres, ...]
    images: dict[str, Annotated[str, Field(pattern=IMAGE_HASH)]]
    files: dict[InsidePath, _File]

    @model_validator(mode="after")
    def _names_what_is_read(self) -> Self:
        tables = [f"fold-{index}/genes.parquet" for index in self.done]
        for name in (RUN, CARD, REFERENCE, *tables):
            if name not in self.files:
                raise ValueError(f"files: '{name}' is not among them")
        try:
            _once(tuple(fit.name for fit in self.fits))
        except ValueError as error:
            raise ValueError(f"fits: {error}") from error
        return self


class _RecordedRules(BaseModel):
    split: Text
    target: dict[str, Any]


class _RunRecord(BaseModel):
    """What is read of the record of a run."""

    key: Text
    label: Text
    method: Text
    dataset: Text
    protocol: Text
    preset: Any
    seed: Annotated[int, Field(ge=0)]
    n_folds: Annotated[int, Field(ge=1)]
    rules: _RecordedRules


_SCORE_COLUMNS = ("gene", "patient", "pcc", "ceiling")
"""Columns of the scores by gene that are read."""


@dataclass(frozen=True)
class BundledImages(TrainingImages):
    """What a bundle knows of the training images, which it does not hold.

    Attributes
    ----------
    content, known
        The bundle's own account, and what new patches are compared with.
    """

    content: BundleContent = field(kw_only=True)
    known: TrainingPatches = field(kw_only=True)

    def scales(self) -> list[float]:
        """Micrometres a full-resolution pixel of the training sections."""
        return list(self.content.scales)

    def section_with(self, image: Path) -> str | None:
        """Name of the training section that has this very image."""
        return same_file(image, self.content.images)

    def reference(
        self, model: StoredModel, config: MethodConfig, context: Context
    ) -> TrainingPatches:
        """What new patches are compared with."""
        return self.known


@contextmanager
def open_bundle(path: Path) -> Iterator[tuple[StoredModel, BundledImages]]:
    """Model of a bundle and its training images, for as long as the context lasts.

    Parameters
    ----------
    path
        The file, which is unpacked, or a folder with the members of a bundle, such as a logged
        model of MLflow has.

    Raises
    ------
    DataError
        No bundle, one of another format, a member that differs from its hash, lies outside of the
        bundle, is missing, or is in a file without being named in :data:`CONTENT`, or a method
        that is not installed.
    """
    with TemporaryDirectory(prefix="spotbench-bundle-") as name:
        root = path if path.is_dir() else Path(name)
        try:
            yield _opened(path, root, _checked(path, root))
        except BenchError as error:
            # The user knows the bundle, not the folder it was unpacked to.
            if name not in (text := str(error)):
                raise
            told = text.replace(f"{name}/", f"{path}: ").replace(name, str(path))
            raise DataError(told) from error


def check_bundle(path: Path) -> BundleContent:
    """What a bundle says of itself, after each of its members was compared with its hash.

    Raises
    ------
    DataError
        As :func:`open_bundle`, whether the method is installed or not.
    """
    with TemporaryDirectory(prefix="spotbench-bundle-") as name:
        return _checked(path, Path(name))


def _checked(path: Path, root: Path) -> BundleContent:
    """Content of a bundle whose members are in `root`: unpacked now, or those of a folder."""
    content = read_content(path)
    cards = [
        FileCard(path=member, member=member, hash=file.hash, size=file.size)
        for member, file in content.files.items()
    ]
    faults = _folder_faults(path, cards) if path.is_dir() else _unpack(path, cards, root)
    if faults:
        raise DataError(f"{path}: {faults[0]}; the bundle is damaged or was changed")
    return content


def _unpack(path: Path, cards: Sequence[FileCard], root: Path) -> list[str]:
    """Unpack the members; faults of those that are not as stated.

    Raises
    ------
    DataError
        A member that is not named or occurs twice; or the archive is damaged.
    """
    _refuse_others(path, {CONTENT, *(card.path for card in cards)})
    faults: list[str] = []

    def told(file: FileCard, fault: str | None) -> None:
        if fault:
            faults.append(f"{file.path}: {fault}")

    try:
        extract(path, cards, root, told)
    except DataError as error:
        # With the path as it was given, of which the other error has the last part.
        raise DataError(f"{path}: {str(error).removeprefix(f'{path.name}: ')}") from error
    return faults


def _refuse_others(path: Path, named: Collection[str]) -> None:
    """Refuse members that nobody reads, whose content is therefore not compared with a hash."""
    with zipfile.ZipFile(path) as archive:
        times = Counter(member.orig_filename for member in archive.infolist())
    folders = {f"{parent}/" for name in named for parent in PurePosixPath(name).parents}
    for name, number in times.items():
        shown = one_line(name, 80)
        if name not in named and name not in folders:
            raise DataError(
                f"{path}: holds a member '{shown}' that its {CONTENT} does not name; export the"
                " bundle again, or get it from its author"
            )
        if number > 1:
            raise DataError(f"{path}: holds {number} members '{shown}'; export the bundle again")


def _folder_faults(folder: Path, cards: Sequence[FileCard]) -> list[str]:
    """Faults of members of a folder; a link to a place outside of it is one."""
    faults = []
    for card in cards:
        member = folder / card.path
        if not member.is_file():
            faults.append(f"{card.path}: is missing")
        elif not member.resolve().is_relative_to(folder.resolve()):
            faults.append(f"{card.path}: lies outside of the bundle")
        elif (fault := card.compare(member)[1]) is not None:
            faults.append(f"{card.path}: {fault}")
    return faults


def read_content(path: Path) -> BundleContent:
    """What a bundle says of itself.

    Raises
    ------
    DataError
        It cannot be read, or is of another format.
    """
    text = io.BytesIO()
    try:
        if (kind := other_kind(path)) not in {None, "a folder"}:
            raise DataError(f"is {kind}; name a bundle of 'bench export'")
        with ExitStack() as opened:
            if path.is_dir():
                stream: IO[bytes] = opened.enter_context((path / CONTENT).open("rb"))
            else:
                archive = opened.enter_context(zipfile.ZipFile(path))
                if archive.namelist().count(CONTENT) > 1:  # either could be meant
                    raise DataError(f"holds several members '{CONTENT}'; export the bundle again")
                stream = opened.enter_context(archive.open(CONTENT))
            copy_bounded(stream, text, _LARGEST_CONTENT)
        found = json.loads(text.getvalue())
    except FileNotFoundError as error:
        reason = "holds no model bundle" if path.is_dir() else "no such bundle"
        raise DataError(f"{path}: {reason}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except KeyError as error:
        raise DataError(f"{path}: is no model bundle (it has no {CONTENT})") from error
    except (*DAMAGE, OSError) as error:
        raise DataError(f"{path}: is no model bundle ({one_line(error, 80)})") from error
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise DataError(
            f"{path}: bundle of format {one_line(found.get('format'), 20)}, written by spotbench"
            f" {one_line(found.get('spotbench'), 20)}; this one reads format {FORMAT}"
        )
    try:
        return BundleContent.model_validate(found)
    except ValidationError as error:
        raise DataError(f"{path}: {CONTENT}: {first_fault(error, found)}") from error


def _opened(path: Path, root: Path, content: BundleContent) -> tuple[StoredModel, BundledImages]:
    try:
        facts = json.loads((root / RUN).read_text(encoding="utf-8"))
        reference = _from_bytes((root / REFERENCE).read_bytes())
        card = read_card(root / CARD)
        _RunRecord.model_validate(facts)
        run = StoredRun(RunFolder(root, facts["key"]), facts, content.done)
        for index in content.done:
            columns = pq.read_schema(run.folder.fold(index).path / "genes.parquet").names
            if missing := [name for name in _SCORE_COLUMNS if name not in columns]:
                raise ValueError(f"the scores have no column '{missing[0]}'")
        scored = run.genes()
        for name in ("pcc", "ceiling"):
            scored[name].to_numpy(dtype=np.float64)
    except ValidationError as error:
        raise DataError(f"{path}: {RUN}: {first_fault(error, facts)}") from error
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: its members are incomplete ({one_line(error, 80)})") from error
    try:
        kind = load_method(_installed(content.method))
    except BenchError as error:
        raise DataError(f"{path}: {error}") from error
    fits = tuple(
        FittedFold(**{**fit.model_dump(), "folder": root / fit.folder}) for fit in content.fits
    )
    return StoredModel(run, kind, fits), BundledImages(
        card, tuple(content.images), None, reference.reason, content=content, known=reference
    )


def _installed(name: str) -> str:
    """Name of a method that is no path: a bundle names no file that is then imported."""
    if is_own(name):
        raise DataError(f"bundle of method '{one_line(name, 40)}', which is a file")
    return name


def _from_bytes(content: bytes) -> TrainingPatches:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        groups = [str(name) for name in arrays["groups"]]
        described = [np.asarray(arrays[f"section {number}"]) for number in range(len(groups))]
        statistics = np.asarray(arrays["statistics"])
        return TrainingPatches(
            [statistics] if len(statistics) else [],
            described,
            str(arrays["what"]),
            groups,
            str(arrays["reason"]),
        )
