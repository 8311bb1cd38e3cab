"""Schema of the records and tables in a results archive, which may be damaged or hostile."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.data.card import InsidePath, Name
from bench.data.reading.parsing import MAX_BYTES
from bench.errors import DataError
from bench.faults import first_fault
from bench.files import canonical_hash, one_line
from bench.inventory import LONGEST_NAME
from bench.records import HASH

MOST_ROWS = 50_000_000
"""Limit on the rows of a table."""

_MOST_COLUMNS = 200

_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Short = Annotated[str, Field(max_length=300)]
_Said = Annotated[str, Field(max_length=5_000)]
_Count = Annotated[int, Field(ge=0, lt=1 << 40)]

_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "scores.parquet": {
        "text": ("section", "patient", "score"),
        "number": ("fold", "value"),
    },
    "genes.parquet": {
        "text": ("section", "patient", "gene"),
        "number": ("fold", "pcc", "ceiling", "p_value"),
    },
    "curves.parquet": {"text": (), "number": ()},
}


class _Checked(BaseModel):
    """Fields that tables, figures and pages read; others are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _AuditedLeak(_Checked):
    kind: _Short
    message: _Said
    folds: list[int]
    forbidden: bool


class _Checkpoint(_Checked):
    file: _Short
    sha256: _Short | dict[str, _Short]


class SharedLabel(BaseModel):
    """Contents of the ``label.json`` of an archive: the name that a row was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    label: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"\S")]


class SharedRun(_Checked):
    """Contents of the ``run.json`` of an archive."""

    key: _Hash
    label: Annotated[str, Field(min_length=1, max_length=300)]
    kind: Literal["method", "control", "oracle"]
    method: _Short | None
    dataset: Name
    protocol: Name
    preset: _Short
    config: dict[str, Any]
    changes: dict[str, Any] = Field(default_factory=dict)
    train_patients: _Count | None = None
    test_dataset: dict[str, Any] | None = None
    tuned: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seed: _Count
    n_folds: Annotated[int, Field(ge=1, le=10_000)]
    folds_hash: _Hash
    protocol_hash: _Hash
    dataset_hash: _Hash
    tables_hash: _Hash | None = None
    rules: dict[str, Any] = Field(default_factory=dict)
    audit: list[_AuditedLeak] = Field(default_factory=list)
    footnotes: list[_Said] = Field(default_factory=list)
    left_out: dict[str, _Said]
    packages: dict[str, _Short] = Field(default_factory=dict)
    created: _Short = ""
    git_commit: _Short | None = None
    checkpoint: _Checkpoint | None = None


class _StoredImage(_Checked):
    file: InsidePath
    scale: float


class SharedFold(_Checked):
    """Contents of the ``fold.json`` of an archive."""

    fold: _Count
    train: list[_Short]
    validation: list[_Short]
    test: list[_Short]
    panel: list[_Short]
    timings: dict[str, float | int] = Field(default_factory=dict)
    notes: list[_Said] = Field(default_factory=list)
    images: dict[str, _StoredImage] = Field(default_factory=dict)
    machine: dict[str, _Short] = Field(default_factory=dict)
    device: _Short = ""
    precision: _Short = ""
    isolation: _Short = ""
    peak_memory_mb: float | int | None = None
    peak_device_memory_mb: float | int | None = None
    unmeasured_genes: dict[str, int | str] = Field(default_factory=dict)
    dropped_spots: dict[str, int | str] = Field(default_factory=dict)
    left_out: dict[str, int | _Said] = Field(default_factory=dict)
    reduced_images: dict[str, int | float | _Said] = Field(default_factory=dict)


class _SharedFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: _Hash
    size: _Count


class SharedManifest(BaseModel):
    """Contents of the ``manifest.json`` of an archive."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run: _Hash
    fold: _Count
    fit_key: str = Field(pattern="^([0-9a-f]{64})?$")
    score_key: str = Field(pattern="^([0-9a-f]{64})?$")
    files: dict[InsidePath, _SharedFile]


T = TypeVar("T", bound=BaseModel)


def checked(kind: type[T], content: dict[str, Any], where: str) -> T:
    """A record as an object of its schema.

    Raises
    ------
    DataError
        A field is missing or has another type.
    """
    try:
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else one_line(error)
        raise DataError(f"{where}: {fault}") from error


def without_hash(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A record whose own hash fits its content.

    Raises
    ------
    DataError
        It has none, or another.
    """
    record = {name: value for name, value in content.items() if name != HASH}
    if content.get(HASH) != canonical_hash(record):
        raise DataError(f"{where}: does not match the hash in it")
    return record


def checked_table(name: str, content: bytes, where: str) -> set[tuple[int, str, str]]:
    """Check a table of a fold: its size unpacked, and the columns that are read from it.

    Returns
    -------
    set
        Fold, section and patient of its rows; empty for curves.

    Raises
    ------
    DataError
        No Parquet file, too large, or a column is missing or has another type.
    """
    wanted = _COLUMNS[name]
    try:
        about = pq.read_metadata(pa.BufferReader(content))
        if about.num_rows > MOST_ROWS or about.num_columns > _MOST_COLUMNS:
            raise DataError(
                f"{where}: {about.num_rows:,} rows and {about.num_columns:,} columns are too many"
            )
        declared = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
        if declared > MAX_BYTES:
            raise DataError(f"{where}: unpacks to more than {MAX_BYTES:,} bytes")
        columns = {field.name: field.type for field in about.schema.to_arrow_schema()}
        for column in (*wanted["text"], *wanted["number"]):
            if column not in columns:
                raise DataError(f"{where}: has no column '{column}'")
            kind = columns[column]
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
            if not (text if column in wanted["text"] else number):
                raise DataError(f"{where}: column '{column}' is of type {kind}")
        plain = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
        texts = [column for column, kind in columns.items() if not any(is_(kind) for is_ in plain)]
        return _places(content, texts, where) if wanted["text"] else set()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{where}: is no readable table ({one_line(error, 80)})") from error


def _places(content: bytes, texts: list[str], where: str) -> set[tuple[int, str, str]]:
    """Fold, section and patient of the rows of a table whose texts are read as dictionaries.

    A dictionary holds a text once however often it occurs, and the whole is bounded.
    """
    places: set[tuple[int, str, str]] = set()
    size = 0
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    for batch in file.iter_batches(columns=["fold", *texts], use_threads=False):
        for column in texts:
            values = batch.column(column)
            if not pa.types.is_dictionary(values.type):
                raise DataError(f"{where}: column '{column}' is neither text nor numbers")
            lengths = pc.binary_length(values.dictionary.cast(pa.large_binary()))
            size += int(pc.sum(lengths.take(values.indices)).as_py() or 0)
        if size > MAX_BYTES:
            raise DataError(f"{where}: unpacks to more than {MAX_BYTES:,} bytes")
        chosen = pa.table(
            {
                "fold": batch.column("fold"),
                **{name: batch.column(name).cast(pa.string()) for name in ("section", "patient")},
            }
        )
        distinct = chosen.group_by(chosen.column_names, use_threads=False).aggregate([])
        places |= {tuple(row.values()) for row in distinct.to_pylist()}
    return places
