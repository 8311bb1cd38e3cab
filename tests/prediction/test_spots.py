"""Files and tables of spots: what is wrong is named with its place."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bench.errors import DataError
from bench.prediction.spots import spots_of

PIXELS = np.array([[1.0, 1.0], [9.0, 2.0], [3.0, 8.0]])


def read(positions):
    return spots_of(Path("slide.tif"), (10.0, 10.0), positions)


def table(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_barcodes_are_names_whatever_they_look_like(tmp_path, end):
    lines = ["barcode,x,y", "NA,1,1", '"a, ""b""",2.5,2', "", "007,1e0,9", "nan, 4 ,4"]
    spots = read(table(tmp_path / "s.csv", "\ufeff" + end.join(lines)))
    assert spots.names == ("NA", 'a, "b"', "007", "nan")
    np.testing.assert_array_equal(spots.spatial, [[1, 1], [2.5, 2], [1, 9], [4, 4]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("barcode,x,y\na,1,1\nb,nan,2\nc,4,3\n", "line 3: column 'x' is missing or not finite"),
        ("barcode,x,y\na,1,1\nb,2,inf\nc,4,3\n", "line 3: column 'y' is missing or not finite"),
        ("barcode,x,y\na,1,1\nb,,2\nc,4,3\n", "line 3: column 'x' is missing or not finite"),
        ("barcode,x,y\na,1,one\nb,2,2\nc,4,3\n", "line 2: column 'y' is not numeric: 'one'"),
        ("barcode,x,y\na,1,1_0\nb,2,2\nc,4,3\n", "line 2: column 'y' is not numeric: '1_0'"),
        (f"barcode,x,y\na,1,1\nb,{10**30},2\nc,4,3\n", "1 of 3 spots lie outside"),
        ('barcode,x,y\n"a\nb",1,1\nb,2,2\nc,4,3\n', "line 3: a barcode holds a line break"),
        ('barcode,x,y\na,1,1\n"b,2,2\nc,4,3\n', "unexpected end of data"),
        ("barcode,x,y\na,1,1\nb,2\nc,4,3\n", "line 3: 2 fields instead of 3"),
        ("barcode,x,y\na,1,1\nb,2,2,2\nc,4,3\n", "line 3: 4 fields instead of 3"),
        ("barcode,x,y,x\na,1,1,1\n", "column 'x' occurs more than once"),
        ("barcode,x,y\n", "at least one barcode is needed"),
        ("barcode,x,y\na,1,1\n,2,2\nc,4,3\n", "a barcode is empty"),
        ("barcode,x,y\na,1,1\n".encode("utf-16"), "is no CSV text in UTF-8 and no Parquet file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no CSV text in UTF-8 and no Parquet file"),
        ("barcode,x,y\n\xe4,1,1\n".encode("latin-1"), "is no CSV text in UTF-8"),
        (b"PAR1 and nothing else", "damaged, or no Parquet file"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path, content, words):
    path = table(tmp_path / "s.csv", content)
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_name_of_parquet_needs_parquet(tmp_path):
    with pytest.raises(DataError, match=r"s\.parquet: is no Parquet file"):
        read(table(tmp_path / "s.parquet", "barcode,x,y\na,1,1\n"))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    for name in ("pipe.csv", "pipe.h5ad"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: is a pipe; spots are read from"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="is a folder; spots are read from"):
        read(tmp_path)
    with pytest.raises(DataError, match="file is missing"):
        read(tmp_path / "absent.csv")


def test_a_table_names_the_spot_without_a_coordinate():
    frame = pd.DataFrame(PIXELS.copy(), columns=["x", "y"], index=["a", "b", "c"])
    frame.loc["b", "y"] = np.nan
    with pytest.raises(DataError, match=r"a coordinate of spot 'b' \(number 2\)"):
        read(frame)
    twice = pd.DataFrame(np.ones((3, 3)), columns=["x", "y", "x"], index=["a", "b", "c"])
    with pytest.raises(DataError, match="x or y occurs more than once"):
        read(twice)


def written(path, spatial):
    adata = anndata.AnnData(obs=pd.DataFrame(index=["a", "b", "c"]))
    if spatial is not None:
        adata.obsm["spatial"] = spatial
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("names", [("x", "y"), ("pxl_col_in_fullres", "pxl_row_in_fullres")])
def test_a_data_frame_is_read_by_the_names_of_its_columns(tmp_path, names):
    frame = pd.DataFrame(PIXELS.copy(), columns=list(names), index=["a", "b", "c"])
    spots = read(written(tmp_path / "s.h5ad", frame[list(reversed(names))]))
    np.testing.assert_array_equal(spots.spatial, PIXELS)


@pytest.mark.parametrize(
    ("spatial", "words"),
    [
        (None, r"has no obsm\['spatial'\]"),
        (sp.csr_matrix(PIXELS), r"obsm\['spatial'\] is stored as csr_matrix"),
        (
            pd.DataFrame(PIXELS.copy(), columns=["row", "col"], index=["a", "b", "c"]),
            "without columns x and y; it has row, col",
        ),
        (np.where(PIXELS == 9, np.nan, PIXELS), r"a coordinate of spot 'b' \(number 2\)"),
    ],
)
def test_other_forms_of_pixels_are_named(tmp_path, spatial, words):
    with pytest.raises(DataError, match=words):
        read(written(tmp_path / "s.h5ad", spatial))
