"""Schema of the records and tables in a results archive, which may be damaged or hostile."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.data.card import InsidePath, Name, first_fault
from bench.data.reading.parquet import check_unpacked_size
from bench.errors import DataError
from bench.files import canonical_hash, one_line
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


class SharedRun(_Checked):
    """Contents of the ``run.json`` of an archive."""

    key: _Hash
    label: Annotated[str, Field(min_length=1, max_length=300)]
    kind: Literal["method", "control", "oracle"]
    method: _Short | None
    dataset: Name
    protocol: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=100)]
    preset: _Short
    config: dict[str, Any]
    changes: dict[str, Any] = Field(default_factory=dict)
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


def checked_table(name: str, content: bytes, where: str) -> pa.Table:
    """A table of a fold with the columns that are read from it; bounded before it is unpacked.

    Returns
    -------
    Table
        Its section, patient and fold columns alone; that of curves is empty.

    Raises
    ------
    DataError
        No Parquet file, too large, or a column is missing or has another type.
    """
    wanted = _COLUMNS[name]
    check_unpacked_size(io.BytesIO(content), where, MOST_ROWS)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        schema = file.schema_arrow
        if len(schema.names) > _MOST_COLUMNS:
            raise DataError(f"{where}: has {len(schema.names):,} columns, which is too many")
        for column in (*wanted["text"], *wanted["number"]):
            if column not in schema.names:
                raise DataError(f"{where}: has no column '{column}'")
            kind = schema.field(column).type
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
            if not (text if column in wanted["text"] else number):
                raise DataError(f"{where}: column '{column}' is of type {kind}")
        kept = [column for column in ("fold", "section", "patient") if column in schema.names]
        return file.read(kept if wanted["text"] else [], use_threads=False)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{where}: is no readable table ({one_line(error, 80)})") from error
