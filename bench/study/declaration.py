"""What a study file declares; see :func:`read_study`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)

from bench.errors import DataError, UnknownNameError
from bench.execute.request import Request
from bench.execute.seed_lists import read_seeds
from bench.faults import first_fault
from bench.files import canonical_hash, one_line, printable
from bench.method_references import SHUFFLED
from bench.yaml_files import read_yaml

_DEEPEST = 10
_FILES = {".yaml", ".yml", ".py"}
"""Endings of the files that a study may name, which lie beside it."""


def seed_list(value: Any) -> tuple[int, ...]:
    """Seeds of ``3``, ``[0, 1]``, ``"0-4"`` or ``"0-2,7"``, in the order given.

    Raises
    ------
    ValueError
        It is none of these, or names a seed twice.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, bool) or not isinstance(part, int | str) for part in parts):
        raise ValueError("write seeds such as 0-4 or 0,1,7")
    seeds = read_seeds(",".join(map(str, parts)))
    if len(set(seeds)) < len(seeds):
        raise ValueError("names a seed twice")
    return seeds


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _shown(text: Any) -> Any:
    # What is no text is refused by the type that follows.
    if isinstance(text, str) and (printable(text) != text or not text.strip()):
        raise ValueError("must be a line of visible characters")
    return text


_Name = Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
_Text = Annotated[StrictStr, Field(min_length=1, max_length=200), BeforeValidator(_shown)]
_Names = Annotated[tuple[StrictStr, ...], BeforeValidator(_as_tuple)]
_Scalar = bool | int | float | StrictStr | None
_Seeds = Annotated[tuple[int, ...], BeforeValidator(seed_list)]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyRow(_Declared):
    """A row of a part's table.

    Attributes
    ----------
    method
        As ``bench run --method`` takes one; an oracle, or ``shuffled:METHOD``, too.
    label
        Name in tables and figures; None: the method's.
    preset
        In place of the part's.
    settings
        Settings of the method that differ from the preset's.
    published
        Whether the row stands only for published numbers, and is not run.
    published_as
        Name under which its numbers are published; None: the method's.
    """

    method: _Text
    label: _Text | None = None
    preset: _Name | None = None
    settings: dict[StrictStr, _Scalar | list[_Scalar]] = {}
    published: StrictBool = False
    published_as: _Text | None = None

    @property
    def name(self) -> str:
        """Label, or the method's name."""
        return self.label or self.method

    @property
    def base(self) -> str:
        """Method without the prefix of a permuted-image control."""
        return self.method.removeprefix(f"{SHUFFLED}:")


def _as_row(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


class StudyPart(_Declared):
    """Runs of some rows on some datasets, and what is made of them.

    Attributes
    ----------
    name, title
        Name of its files, and heading.
    datasets
        Datasets and collections; empty: those of the study.
    protocol, panel, preset, folds
        As of ``bench run``.
    seeds
        Each row is fitted with each.
    test_dataset
        Dataset that models of all sections of `datasets` are tested on, in place of folds.
    train_patients
        Numbers of training patients, each a run of its own; ``all`` for every one.
    rows
        Methods.
    encoders, random_encoders
        Encoders with which each row that has one is run, and whether controls of random weights
        stand beside them.
    oracles
        Whether the depth oracle is shown.
    published
        ``beside`` ours, ``only``, or ``none``.
    published_in
        ``papers``: the main tables of publications; ``ablations``: their ablations.
    make
        ``table``, ``pairs`` (paired tests), ``figures``, ``genes`` (scores of `genes`).
    genes
        Genes of the table of genes and of the maps.
    """

    name: _Name
    title: _Text
    datasets: _Names = ()
    protocol: StrictStr = Request.protocol
    panel: StrictStr | None = None
    preset: _Name = Request.preset
    folds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    seeds: _Seeds = (0,)
    test_dataset: StrictStr | None = None
    train_patients: Annotated[
        tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...], BeforeValidator(_as_list)
    ] = ()
    rows: tuple[Annotated[StudyRow, BeforeValidator(_as_row)], ...] = Field(min_length=1)
    encoders: _Names = ()
    random_encoders: StrictBool = Request.random_encoders
    oracles: StrictBool = Request.oracles
    published: Literal["none", "beside", "only"] = "none"
    published_in: Literal["papers", "ablations"] = "papers"
    make: tuple[Literal["table", "pairs", "figures", "genes"], ...] = ("table", "figures")
    genes: _Names = ()

    @model_validator(mode="after")
    def _rows_differ(self) -> Self:
        _differ("two rows are labelled", (row.name for row in self.rows))
        if "genes" in self.make and not self.genes:
            raise ValueError("make has genes, and no genes are named")
        if self.published == "only" and not all(row.published for row in self.rows):
            raise ValueError("published is only, and a row is to be run")
        return self


class ExecutorHints(_Declared):
    """What the runs need where they are run by a cluster; shown, and never enforced.

    Attributes
    ----------
    gpu_memory_gb
        Memory of a GPU for the largest fit.
    hours
        Longest fit.
    note
        A line more.
    """

    gpu_memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    note: _Text | None = None


class Study(_Declared):
    """A study: its parts, in order.

    Attributes
    ----------
    name, title, description
        Name of its file and folder, heading, and what it is about.
    reference
        Publication that it regenerates.
    datasets
        Of the parts that name none.
    include
        Studies whose parts come first: names, or paths beside this file.
    parts
        Parts of its own and of those included.
    page
        Whether an HTML page of all its runs is written.
    executor
        Hints for clusters.
    """

    name: _Name
    title: _Text
    description: StrictStr = ""
    reference: StrictStr = ""
    datasets: _Names = ()
    include: _Names = ()
    parts: tuple[StudyPart, ...] = ()
    page: StrictBool = True
    executor: ExecutorHints = ExecutorHints()

    @model_validator(mode="after")
    def _parts_are_complete(self) -> Self:
        _differ("two parts are named", (part.name for part in self.parts))
        for part in self.parts:
            if not (part.datasets or self.datasets):
                raise ValueError(f"part {part.name} has no datasets")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of everything declared."""
        return canonical_hash(self.model_dump(mode="json"))

    def datasets_of(self, part: StudyPart) -> tuple[str, ...]:
        """Datasets of a part."""
        return part.datasets or self.datasets


def _differ(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {one_line(name, 80)}")
        seen.add(name)


def studies() -> dict[str, Path]:
    """Files of the studies that come with the package, by name."""
    folder = Path(str(files("bench.studies")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_study(name: str) -> Study:
    """A study of the package by name, or of a file by its path.

    Raises
    ------
    UnknownNameError
        No such study.
    DataError
        The file breaks the schema; see :func:`read_study`.
    """
    known = studies()
    if name in known:
        return read_study(known[name])
    if Path(name).suffix in {".yaml", ".yml"}:
        return read_study(Path(name))
    raise UnknownNameError("study", name, known)


def read_study(path: Path) -> Study:
    """Read a study file and those that it includes.

    Raises
    ------
    DataError
        Not readable, an unknown or malformed field, two rows of one label in a part, two parts of
        one name, studies that include each other.
    UnknownNameError
        An included study that is not there.
    """
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> Study:
    where = path.resolve()
    if where in above or len(above) > _DEEPEST:
        chain = " -> ".join(one.name for one in (*above, where))
        raise DataError(f"{path}: studies include each other: {chain}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a study, which has fields such as name and parts")
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error, content)}") from error
    study = _beside(study, path.parent)
    if study.name != path.stem:
        raise DataError(f"{path}: the study is named {study.name}; its file must have that name")
    included: list[StudyPart] = []
    for name in study.include:
        of = _read(_included(name, path), (*above, where))
        included += (
            part.model_copy(update={"datasets": of.datasets_of(part)}) for part in of.parts
        )
    if not included and not study.parts:
        raise DataError(f"{path}: a study needs parts, or studies to include")
    try:
        whole = study.model_dump() | {"parts": [*included, *study.parts]}
        return Study.model_validate(whole)
    except ValidationError as error:
        raise DataError(f"{path}: with what it includes, {first_fault(error)}") from error


def _beside(study: Study, folder: Path) -> Study:
    """The study with the paths of its files taken from its own folder."""

    def placed(name: str) -> str:
        parts = (
            str(folder / part)
            if Path(part).suffix in _FILES and not Path(part).is_absolute()
            else part
            for part in name.split(":")
        )
        return ":".join(parts)

    def placed_all(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(placed, names))

    parts = tuple(
        part.model_copy(
            update={
                "datasets": placed_all(part.datasets),
                "protocol": placed(part.protocol),
                "test_dataset": part.test_dataset and placed(part.test_dataset),
                "rows": tuple(
                    row.model_copy(update={"method": placed(row.method)}) for row in part.rows
                ),
            }
        )
        for part in study.parts
    )
    return study.model_copy(update={"datasets": placed_all(study.datasets), "parts": parts})


def _included(name: str, path: Path) -> Path:
    known = studies()
    if name in known:
        return known[name]
    beside = path.parent / name
    if beside.suffix in {".yaml", ".yml"} and beside.is_file():
        return beside
    raise UnknownNameError(f"study that {path} includes", one_line(name, 80), known)
