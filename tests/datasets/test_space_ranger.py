import gzip
import json

import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from bench.datasets.space_ranger import hires_scale, read, read_scalefactors, spot_diameter
from bench.errors import DataError
from tests.datasets.layouts import (
    BARCODES,
    LABELS,
    SYMBOLS,
    SmallSection,
    write_10x_h5,
    write_barcode_labels,
    write_matrix_market,
    write_positions,
    write_scalefactors,
    write_space_ranger,
)

TRUTH = SmallSection()


def refused(files, named, match=None):
    with pytest.raises(DataError, match=match) as caught:
        read(files)
    message = str(caught.value)
    assert str(named) in message
    assert "\n" not in message
    assert len(message) - 2 * len(str(named)) < 400
    return message


@pytest.mark.parametrize("positions", [1, 2, 3])
@pytest.mark.parametrize("counts", ["h5", "h5-v2", "mtx"])
def test_every_form_of_the_layout_gives_the_same_section(tmp_path, counts, positions):
    adata = read(write_space_ranger(tmp_path, counts, positions))
    assert tuple(adata.obs_names) == BARCODES
    assert tuple(adata.var_names) == SYMBOLS
    assert sp.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.int32
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts)
    np.testing.assert_array_equal(adata.obs["array_row"], TRUTH.row)
    np.testing.assert_array_equal(adata.obs["array_col"], TRUTH.col)
    np.testing.assert_array_equal(adata.obsm["spatial"], TRUTH.pixels)
    assert adata.obsm["spatial"].dtype == np.float64
    assert adata.obs["array_row"].dtype == adata.obs["in_tissue"].dtype == np.int64
    assert (adata.obs["in_tissue"] == 1).all()
    assert tuple(adata.obs["label"]) == TRUTH.labels


@pytest.fixture
def files(tmp_path):
    return write_space_ranger(tmp_path)


@pytest.fixture
def text_files(tmp_path):
    return write_space_ranger(tmp_path, "mtx", positions=2)


def test_labels_and_scale_factors_are_optional(files):
    del files["labels"], files["scalefactors"]
    assert set(read(files).obs["label"]) == {""}


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("zipped", [False, True])
def test_features_have_one_to_three_columns(tmp_path, text_files, columns, zipped):
    files = {**text_files, **write_matrix_market(tmp_path, zipped=zipped, columns=columns)}
    adata = read(files)
    assert tuple(adata.var_names) == SYMBOLS
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_of_other_systems_reads_the_same(text_files, newline, mark):
    for role in ("positions", "barcodes", "features", "labels", "counts"):
        content = text_files[role].read_bytes().replace(b"\n", newline)
        text_files[role].write_bytes(content if role == "counts" else mark + content)
    adata = read(text_files)
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts)
    assert tuple(adata.obs["label"]) == TRUTH.labels


def test_the_columns_of_a_header_may_stand_in_any_order(text_files):
    table = pd.read_csv(text_files["positions"])
    text_files["positions"].write_text(table[table.columns[::-1]].to_csv(index=False))
    np.testing.assert_array_equal(read(text_files).obsm["spatial"], TRUTH.pixels)


@pytest.mark.parametrize("words", [("TRUE", "FALSE"), ("True", "False")])
def test_in_tissue_may_be_true_or_false(text_files, words):
    path = text_files["positions"]
    table = pd.read_csv(path)
    table["in_tissue"] = [words[0] if flag else words[1] for flag in table["in_tissue"]]
    table.to_csv(path, index=False)
    adata = read(text_files)
    assert tuple(adata.obs_names) == BARCODES
    np.testing.assert_array_equal(adata.obsm["spatial"], TRUTH.pixels)


def test_fractional_pixels_are_kept(text_files):
    table = pd.read_csv(text_files["positions"])
    table["pxl_col_in_fullres"] += 0.25
    text_files["positions"].write_text(table.to_csv(index=False))
    np.testing.assert_array_equal(
        read(text_files).obsm["spatial"], TRUTH.pixels + np.array([0.25, 0])
    )


def test_spots_outside_of_the_tissue_or_without_a_position_are_left_out(files):
    lines = files["positions"].read_text().splitlines()
    lines = [line for line in lines if not line.startswith(BARCODES[3])]
    lines = [
        line.replace(",1,", ",0,", 1) if line.startswith(BARCODES[0]) else line for line in lines
    ]
    files["positions"].write_text("\n".join(lines))
    adata = read(files)
    kept = [spot for spot in range(12) if spot not in (0, 3)]
    assert list(adata.obs_names) == [BARCODES[spot] for spot in kept]
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts[kept])
    np.testing.assert_array_equal(adata.obsm["spatial"], TRUTH.pixels[kept])
    assert list(adata.obs["label"]) == [TRUTH.labels[spot] for spot in kept]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_a_symbol_that_occurs_again_gets_the_name_that_scanpy_gives_it(tmp_path, form):
    section = SmallSection(genes=("TBCE", "A", "TBCE", "TBCE-1", "B", "TBCE", "C", "A"))
    files = write_space_ranger(tmp_path, form)
    if form == "h5":
        write_10x_h5(files["counts"], section=section)
        expected = sc.read_10x_h5(files["counts"])
    else:
        files.update(write_matrix_market(tmp_path, section=section))
        expected = sc.read_10x_h5(_as_h5(tmp_path, section))
    with pytest.warns(UserWarning, match="Suffix used"):
        expected.var_names_make_unique()
    adata = read(files)
    assert list(adata.var_names) == list(expected.var_names)
    assert len(set(adata.var_names)) == 8
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts)


def _as_h5(folder, section):
    write_10x_h5(folder / "other.h5", section=section)
    return folder / "other.h5"


def test_features_that_are_no_genes_are_left_out_of_an_h5(files):
    with h5py.File(files["counts"], "r+") as file:
        types = file["matrix/features/feature_type"]
        values = types[()].astype("S20")
        values[[1, 5]] = b"Antibody Capture"
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = values
    kept = [0, 2, 3, 4, 6, 7]
    adata = read(files)
    assert list(adata.var_names) == [SYMBOLS[gene] for gene in kept]
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts[:, kept])


def test_features_that_are_no_genes_are_left_out_of_a_table(text_files):
    lines = text_files["features"].read_text().splitlines()
    lines[2] = lines[2].replace("Gene Expression", "Antibody Capture")
    text_files["features"].write_text("\n".join(lines) + "\n")
    adata = read(text_files)
    np.testing.assert_array_equal(adata.X.toarray(), np.delete(TRUTH.counts, 2, axis=1))
    text_files["features"].write_text("".join(f"E{i}\tS{i}\tPeaks\n" for i in range(8)))
    refused(text_files, text_files["features"], "no feature is of type")


HEADER = b"%%MatrixMarket matrix coordinate integer general\n"
BAD_MATRICES = {
    "empty": b"",
    "no banner": b"8 12 1\n1 1 5\n",
    "array": b"%%MatrixMarket matrix array integer general\n8 12\n",
    "complex": b"%%MatrixMarket matrix coordinate complex general\n8 12 1\n1 1 5 0\n",
    "pattern": b"%%MatrixMarket matrix coordinate pattern general\n8 12 1\n1 1\n",
    "symmetric": b"%%MatrixMarket matrix coordinate integer symmetric\n8 12 1\n1 1 5\n",
    "banner cut": b"%%MatrixMarket matrix coord",
    "banner not UTF-8": b"%%MatrixMarket \xff coordinate integer general\n8 12 1\n1 1 5\n",
    "no sizes": HEADER,
    "sizes of two": HEADER + b"8 12\n1 1 5\n",
    "sizes negative": HEADER + b"-8 12 1\n1 1 5\n",
    "sizes of 5000 digits": HEADER + b"9" * 5000 + b" 12 1\n1 1 5\n",
    "sizes swapped": HEADER + b"12 8 1\n1 1 5\n",
    "huge number of entries": HEADER + b"8 12 999999999999\n1 1 5\n",
    "huge numbers of rows": HEADER + b"9999999999 9999999999 1\n1 1 5\n",
    "no entry": HEADER + b"8 12 0\n",
    "one entry too few": HEADER + b"8 12 2\n1 1 50000\n",
    "one entry too many": HEADER + b"8 12 1\n1 1 5\n1 2 5\n",
    "gene 0": HEADER + b"8 12 1\n0 1 5\n",
    "gene 9": HEADER + b"8 12 1\n9 1 5\n",
    "barcode 0": HEADER + b"8 12 1\n1 0 5\n",
    "barcode 13": HEADER + b"8 12 1\n1 13 5\n",
    "negative gene": HEADER + b"8 12 1\n-1 1 5\n",
    "negative": HEADER + b"8 12 1\n1 1 -5\n",
    "fractional in a file of integers": HEADER + b"8 12 1\n1 1 5.5\n",
    "fractional": HEADER.replace(b"integer", b"real") + b"8 12 1\n1 1 5.5\n",
    "NaN": HEADER.replace(b"integer", b"real") + b"8 12 1\n1 1 nan\n",
    "infinite": HEADER.replace(b"integer", b"real") + b"8 12 1\n1 1 inf\n",
    "beyond int32": HEADER + b"8 12 1\n1 1 2147483648\n",
    "beyond int64": HEADER + b"8 12 1\n1 1 9223372036854775808\n",
    "beyond float64": HEADER.replace(b"integer", b"real") + b"8 12 1\n1 1 1e400\n",
    "twice": HEADER + b"8 12 2\n1 1 5\n1 1 5\n",
    "four numbers": HEADER + b"8 12 1\n1 1 5 7\n",
    "two numbers": HEADER + b"8 12 1\n1 1     \n",
    "commas": HEADER + b"8 12 1\n1,1,5\n",
    "more than a section has": HEADER + b"8 12 1\n1 1 100000001\n",
    "NUL bytes": HEADER + b"8 12 1\n1 1 5\x00\n",
    "body not UTF-8": HEADER + b"8 12 1\n1 1 \xff\n",
    "gzip cut": gzip.compress(HEADER + b"8 12 1\n1 1 5\n")[:-6],
    "gzip garbage": b"\x1f\x8b" + bytes(range(200)),
}


@pytest.mark.parametrize("content", BAD_MATRICES.values(), ids=BAD_MATRICES.keys())
def test_a_matrix_that_cannot_be_counts_is_refused_by_name(text_files, content):
    text_files["counts"].write_bytes(content)
    refused(text_files, text_files["counts"])


def test_whole_numbers_may_be_written_as_real_ones(text_files):
    content = text_files["counts"].read_bytes().replace(b"integer", b"real")
    text_files["counts"].write_bytes(content.replace(b"\n1 2 ", b"\n1 2 0."))
    refused(text_files, text_files["counts"], "fractional")
    text_files["counts"].write_bytes(content)
    np.testing.assert_array_equal(read(text_files).X.toarray(), TRUTH.counts)


@pytest.mark.parametrize("role", ["barcodes", "features"])
def test_a_matrix_without_its_names_is_refused(text_files, role):
    del text_files[role]
    refused(text_files, text_files["counts"], role)


BAD_NAMES = {
    "empty": b"",
    "one too few": "".join(f"{name}\n" for name in BARCODES[1:]).encode(),
    "a blank line": "".join(f"{name}\n\n" for name in BARCODES).encode(),
    "twice": "".join(f"{name}\n" for name in (*BARCODES[1:], BARCODES[1])).encode(),
    "another column": "".join(f"{name}\t1\t2\t3\n" for name in BARCODES).encode(),
    "one long row": "\n".join(BARCODES).replace("\n", "\t", 1).encode(),
    "not UTF-8": b"\xff\n" * 12,
    "gzip cut": gzip.compress("\n".join(BARCODES).encode())[:-6],
}


@pytest.mark.parametrize("content", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_barcodes_that_cannot_be_those_of_the_matrix_are_refused_by_name(text_files, content):
    text_files["barcodes"].write_bytes(content)
    with pytest.raises(DataError, match=r"barcodes\.tsv|matrix\.mtx"):
        read(text_files)


def row(barcode=BARCODES[0], inside="1", row="1", col="2", y="800", x="1000"):
    return f"{barcode},{inside},{row},{col},{y},{x}\n".encode()


V2 = b"barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
BAD_POSITIONS = {
    "empty": b"",
    "a header alone": V2,
    "five columns": b"AAAA-1,1,1,2,800\n",
    "seven columns": row().replace(b"\n", b",7\n"),
    "long second row": row() + row("B-1", row="3").replace(b"\n", b",7\n"),
    "header without pixels": V2.replace(b",pxl_col_in_fullres", b"") + b"A-1,1,1,2,800\n",
    "a column twice": V2.replace(b"array_col", b"array_row") + row(),
    "a column twice beside all": V2.replace(b"\n", b",array_row\n") + row().replace(b"\n", b",7\n"),
    # A reader that fills up the row takes its last pixel for what stands before.
    "short row beside other columns": V2.replace(b"\n", b",note\n") + row(),
    "tabs": row().replace(b",", b"\t"),
    "no barcode of the matrix": row("ACGT-1"),
    "none in the tissue": row(inside="0"),
    "in_tissue 2": row(inside="2"),
    "in_tissue missing": row(inside=""),
    "in_tissue a word": row(inside="yes"),
    "array_row fractional": row(row="1.5"),
    "array_row huge": row(row="1e300"),
    "pixel missing": row(x=""),
    "pixel infinite": row(x="inf"),
    "pixel NaN": V2 + row(y="nan"),
    "pixel a word": row(x="left"),
    "barcode missing": row("") + row(row="5"),
    "barcode twice": row() + row(row="3"),
    "two spots at one place": row() + row(BARCODES[1]),
    "short row": row() + b"B-1,1,3\n",
    "not UTF-8": b"\xff" + row(),
    "NUL bytes": bytes(64),
    "gzip cut": gzip.compress(row() * 9)[:-6],
    "parquet of nothing": b"PAR1" + bytes(50),
}


@pytest.mark.parametrize("content", BAD_POSITIONS.values(), ids=BAD_POSITIONS.keys())
def test_a_file_that_cannot_be_positions_is_refused_by_name(files, content):
    files["positions"].write_bytes(content)
    refused(files, files["positions"])


def test_a_parquet_file_of_something_else_is_refused_by_name(tmp_path, files):
    files["positions"] = tmp_path / "tissue_positions.parquet"
    pd.DataFrame({"barcode": ["A"]}).to_parquet(files["positions"])
    refused(files, files["positions"])
    table = pd.read_csv(write_positions(tmp_path, 2)).assign(array_row="1")
    table.to_parquet(files["positions"])
    refused(files, files["positions"], "numbers")


BAD_LABELS = {
    "empty": b"",
    "no label": b"barcode,depth\nA-1,5\n",
    "no barcode": b"spot,label\nA-1,fat\n",
    "barcode twice": b"barcode,label\nA-1,fat\nA-1,duct\n",
    "of another section": b"barcode,label\nA-1,fat\n",
    "long row": f"barcode,label\n{BARCODES[0]},fat,7\n".encode(),
    "not UTF-8": f"barcode,label\n{BARCODES[0]},".encode() + b"\xff\n",
}


@pytest.mark.parametrize("content", BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_a_file_that_cannot_be_labels_is_refused_by_name(files, content):
    files["labels"].write_bytes(content)
    refused(files, files["labels"])


@pytest.mark.parametrize("header", ["barcode,label", "Barcode,Classification", ",label"])
def test_a_spot_that_the_labels_lack_has_none(files, header):
    files["labels"].write_text(f"{header}\n{BARCODES[4]},fat\nelsewhere,duct\n{BARCODES[5]},\n")
    assert list(read(files).obs["label"]) == [""] * 4 + ["fat"] + [""] * 7


def change(path, name, values, **options):
    """Replace a data set of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, data=values, **options)


def changed(file, name, place, value):
    values = file[name][()]
    values[place] = value
    file[name][...] = values


BAD_H5 = {
    "indptr falls": lambda f: changed(f, "matrix/indptr", 3, 80),
    "indptr begins late": lambda f: changed(f, "matrix/indptr", 0, 1),
    "indptr ends early": lambda f: changed(f, "matrix/indptr", -1, 83),
    "indptr negative": lambda f: changed(f, "matrix/indptr", 1, -1),
    "index too large": lambda f: changed(f, "matrix/indices", 2, 8),
    "index negative": lambda f: changed(f, "matrix/indices", 2, -1),
    "index twice": lambda f: changed(f, "matrix/indices", 1, f["matrix/indices"][0]),
    "count negative": lambda f: changed(f, "matrix/data", 2, -5),
    "shape of others": lambda f: changed(f, "matrix/shape", 0, 9),
    "shape huge": lambda f: changed(f, "matrix/shape", 1, 2**31 - 1),
    "a barcode too few": lambda f: f["matrix/barcodes"].resize((11,)),
    "a gene too few": lambda f: f["matrix/features/name"].resize((7,)),
    "a type too few": lambda f: f["matrix/features/feature_type"].resize((7,)),
    "a barcode twice": lambda f: changed(f, "matrix/barcodes", 2, BARCODES[1].encode()),
    "a barcode empty": lambda f: changed(f, "matrix/barcodes", 2, b""),
    "a gene empty": lambda f: changed(f, "matrix/features/name", 2, b""),
    "a barcode not UTF-8": lambda f: changed(f, "matrix/barcodes", 2, b"\xff"),
    "more counts than stored": lambda f: f["matrix/data"].resize((10**12,)),
    "no barcodes": lambda f: f.pop("matrix/barcodes"),
    "no names": lambda f: f.pop("matrix/features/name"),
    "no data": lambda f: f.pop("matrix/data"),
    "no matrix": lambda f: f.pop("matrix"),
    "several genomes": lambda f: (f.pop("matrix"), f.create_group("a"), f.create_group("b")),
}


@pytest.mark.parametrize("damage", BAD_H5.values(), ids=BAD_H5.keys())
def test_an_h5_file_that_cannot_be_counts_is_refused_by_name(files, damage):
    with h5py.File(files["counts"], "r+") as file:
        damage(file)
    refused(files, files["counts"])


BAD_TYPES = {
    "counts are fractional": ("matrix/data", np.full(84, 0.5)),
    "counts are NaN": ("matrix/data", np.full(84, np.nan)),
    "counts beyond int32": ("matrix/data", np.full(84, 2**40)),
    "counts are text": ("matrix/data", np.full(84, b"5")),
    "counts are a table": ("matrix/data", np.ones((84, 2), dtype=np.int32)),
    "counts are compound": ("matrix/data", np.zeros(84, dtype=[("a", "i4"), ("b", "i4")])),
    "counts are complex": ("matrix/data", np.ones(84, dtype=complex)),
    "indices are fractional": ("matrix/indices", np.zeros(84)),
    "barcodes are numbers": ("matrix/barcodes", np.arange(12)),
    "a barcode is a scalar": ("matrix/barcodes", b"AAA"),
    "shape is a scalar": ("matrix/shape", 8),
}


@pytest.mark.parametrize(("name", "values"), BAD_TYPES.values(), ids=BAD_TYPES.keys())
def test_a_data_set_of_the_wrong_type_is_refused(files, name, values):
    change(files["counts"], name, values)
    refused(files, files["counts"])


def test_object_references_are_refused(files):
    with h5py.File(files["counts"], "r+") as file:
        references = np.array([file["matrix"].ref] * 12, dtype=h5py.ref_dtype)
        del file["matrix/barcodes"]
        file.create_dataset("matrix/barcodes", data=references, dtype=h5py.ref_dtype)
    refused(files, files["counts"], "text")


def test_text_of_variable_length_is_read(files):
    change(files["counts"], "matrix/barcodes", list(BARCODES), dtype=h5py.string_dtype())
    assert tuple(read(files).obs_names) == BARCODES


LINKS = {
    "external": lambda f, other: f.__setitem__(
        "matrix/data", h5py.ExternalLink(str(other), "matrix/data")
    ),
    "soft": lambda f, other: f.__setitem__("matrix/data", h5py.SoftLink("/matrix/indices")),
    "second name": lambda f, other: f.__setitem__("matrix/data", f["matrix/indices"]),
    "external bytes": lambda f, other: f.create_dataset(
        "matrix/data", (84,), "i4", external=[(str(other), 0, 336)]
    ),
    "virtual": lambda f, other: f.create_virtual_dataset("matrix/data", _layout(other)),
    "elsewhere": lambda f, other: (
        f.move("matrix/moved", "matrix/data"),
        f.__setitem__("aside", h5py.ExternalLink(str(other), "/")),
    ),
}


def _layout(other):
    layout = h5py.VirtualLayout((84,), "i4")
    layout[:] = h5py.VirtualSource(str(other), "matrix/data", (84,))
    return layout


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
def test_nothing_outside_of_the_file_is_read(tmp_path, files, link):
    other = tmp_path / "other.h5"
    write_10x_h5(other)
    with h5py.File(files["counts"], "r+") as file:
        file.move("matrix/data", "matrix/moved")
        link(file, other)
    refused(files, files["counts"], "link|another (name|file)")


def test_a_large_data_set_without_bytes_is_refused_before_it_is_allocated(files, monkeypatch):
    with h5py.File(files["counts"], "r+") as file:
        for name in ("data", "indices"):
            del file[f"matrix/{name}"]
            file.create_dataset(f"matrix/{name}", (1 << 40,), "i8", chunks=(1 << 20,))
    refused(files, files["counts"], "declares more data")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
def test_an_h5_file_that_is_cut_is_refused_by_name(files, share):
    content = files["counts"].read_bytes()
    files["counts"].write_bytes(content[: int(len(content) * share)])
    refused(files, files["counts"])


@pytest.mark.parametrize("role", ["counts", "positions", "labels", "scalefactors"])
@pytest.mark.parametrize("instead", ["nothing", "folder"])
def test_a_file_that_is_not_there_is_refused_by_name(files, role, instead):
    files[role].unlink()
    if instead == "folder":
        files[role].mkdir()
    refused(files, files[role])


def test_scale_factors_are_read(tmp_path):
    path = write_scalefactors(tmp_path)
    assert hires_scale(path) == 0.1
    assert spot_diameter(path) == 89.4
    assert read_scalefactors(path) == json.loads(path.read_text())


BAD_FACTORS = {
    "empty": b"",
    "no JSON": b"{tissue_hires_scalef: 1}",
    "a list": b"[1]",
    "neither": b"{}",
    "one": b'{"tissue_hires_scalef": 0.1}',
    "nested": b"[" * 100_000,
    "not UTF-8": b'{"a": "\xff"}',
    "twice": b'{"tissue_hires_scalef": 0.1, "tissue_hires_scalef": 1, "spot_diameter_fullres": 1}',
}
FACTORS = ("0", "-1", "NaN", "Infinity", "1e400", "null", "true", '"1"', "[1]", "9" * 400)
BAD_FACTORS |= {
    f"factor {factor[:9]}": b'{"spot_diameter_fullres": 9, "tissue_hires_scalef": %b}'
    % factor.encode()
    for factor in (*FACTORS, "9" * 5000)
}


@pytest.mark.parametrize("content", BAD_FACTORS.values(), ids=BAD_FACTORS.keys())
def test_a_file_that_cannot_be_scale_factors_is_refused_by_name(files, content):
    files["scalefactors"].write_bytes(content)
    refused(files, files["scalefactors"])


def test_labels_of_metadata_are_those_of_the_section(tmp_path, files):
    files["labels"] = write_barcode_labels(tmp_path)
    assert set(read(files).obs["label"]) == set(LABELS)


@pytest.mark.parametrize("name", ["V19D02-085_B1", "V19D02-085_C1", "V19D02-085_D1"])
def test_a_real_section_reads_as_scanpy_and_its_summary_say(shared_folder, name):
    folder = shared_folder / "data" / "visium_kidney_organoid" / name
    if not folder.is_dir():
        pytest.skip(f"no section {name} in the folder of real data")
    files = {
        "counts": folder / "filtered_feature_bc_matrix.h5",
        "positions": folder / "spatial" / "tissue_positions_list.csv",
        "scalefactors": folder / "spatial" / "scalefactors_json.json",
    }
    adata = read(files)
    with pytest.warns(UserWarning, match="not unique"):
        expected = sc.read_10x_h5(files["counts"])
    expected.var_names_make_unique()
    assert list(adata.obs_names) == list(expected.obs_names)
    assert list(adata.var_names) == list(expected.var_names)
    assert (adata.X != expected.X).nnz == 0

    table = pd.read_csv(files["positions"], header=None, index_col=0)
    assert (table.loc[adata.obs_names, 1] == 1).all()
    np.testing.assert_array_equal(
        adata.obs[["array_row", "array_col"]], table.loc[adata.obs_names, [2, 3]]
    )
    np.testing.assert_array_equal(adata.obsm["spatial"], table.loc[adata.obs_names, [5, 4]])

    summary = pd.read_csv(folder / "metrics_summary.csv").iloc[0]
    assert adata.n_obs == summary["Number of Spots Under Tissue"]
    assert np.median(np.diff(adata.X.indptr)) == summary["Median Genes per Spot"]
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    assert np.median(depth) == summary["Median UMI Counts per Spot"]
    assert len(np.unique(adata.X.indices)) == summary["Total Genes Detected"]
