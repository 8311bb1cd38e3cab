"""Parquet files that repeat a long text, which takes few bytes on disk and many in memory."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data.reading import parquet
from bench.data.reading.parquet import check_unpacked_size
from bench.datasets.space_ranger import read
from bench.errors import DataError
from tests.datasets import layouts


def write(path, texts, **columns):
    pq.write_table(pa.table({"barcode": texts, **columns}), path, store_schema=False)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_string()])
def test_a_text_that_is_repeated_counts_each_time(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(parquet, "MAX_BYTES", 1 << 20)
    path = write(tmp_path / "a.parquet", pa.array(["x" * 10_000] * 1000, kind))
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"a\.parquet: unpacks to more than 1,048,576 bytes"):
        check_unpacked_size(path, str(path), 10_000)
    monkeypatch.setattr(parquet, "MAX_BYTES", 11 << 20)
    check_unpacked_size(path, str(path), 10_000)
    with pytest.raises(DataError, match="more than 999 rows"):
        check_unpacked_size(path, str(path), 999)


def test_missing_values_and_lists_are_counted_as_they_are(tmp_path):
    path = write(tmp_path / "a.parquet", ["a", None], lists=[["b"] * 3, None], numbers=[1.5, None])
    check_unpacked_size(path, str(path), 2)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_of_something_else_is_refused_in_a_line(content):
    with pytest.raises(DataError, match="file: damaged, or no Parquet file") as refusal:
        check_unpacked_size(io.BytesIO(content), "file", 10)
    assert "\n" not in str(refusal.value)


def test_positions_that_repeat_a_long_barcode_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_BYTES", 1 << 20)
    files = layouts.write_space_ranger(tmp_path, positions=3)
    read(files)
    names = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
    columns = {name: [1] * 1000 for name in names}
    write(files["positions"], ["x" * 10_000] * 1000, **columns)
    with pytest.raises(DataError, match="unpacks to more than"):
        read(files)
