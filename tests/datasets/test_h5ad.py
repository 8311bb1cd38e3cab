import tracemalloc
import zlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bench.datasets.h5ad import embedded_image, read
from bench.errors import DataError
from tests.datasets.layouts import BARCODES, SYMBOLS, SmallSection, small_anndata, write_h5ad

TRUTH = SmallSection()


def written(folder, adata):
    path = folder / "section.h5ad"
    adata.write_h5ad(path)
    return {"counts": path}


def refused(files, match=None):
    with pytest.raises(DataError, match=match) as caught:
        read(files)
    message = str(caught.value)
    assert str(files["counts"]) in message
    assert "\n" not in message
    assert len(message) - len(str(files["counts"])) < 400


def assert_is_the_section(adata):
    assert tuple(adata.obs_names) == BARCODES
    assert tuple(adata.var_names) == SYMBOLS
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.int32
    np.testing.assert_array_equal(adata.X.toarray(), TRUTH.counts)
    np.testing.assert_array_equal(adata.obs["array_row"], TRUTH.row)
    np.testing.assert_array_equal(adata.obs["array_col"], TRUTH.col)
    assert adata.obs["array_row"].dtype == adata.obs["in_tissue"].dtype == np.int64
    np.testing.assert_array_equal(adata.obsm["spatial"], TRUTH.pixels)
    assert adata.obsm["spatial"].dtype == np.float64
    assert tuple(adata.obs["label"]) == TRUTH.labels


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_every_form_of_the_counts_gives_the_same_section(tmp_path, form, compression):
    assert_is_the_section(read(write_h5ad(tmp_path, form, compression)))


def test_the_layer_of_counts_comes_before_x(tmp_path):
    adata = small_anndata()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 2
    assert_is_the_section(read(written(tmp_path, adata)))


@pytest.mark.parametrize("normalised", ["fractional", "negative", "absent"])
def test_raw_is_taken_where_x_holds_no_counts(tmp_path, normalised):
    adata = small_anndata()
    adata.raw = adata
    adata = adata[:, [5, 1, 2]].copy()
    if normalised == "absent":
        adata.X = None
    else:
        adata.X = adata.X * 0.37 if normalised == "fractional" else adata.X.toarray() - 500
    assert_is_the_section(read(written(tmp_path, adata)))


def test_x_of_whole_numbers_comes_before_raw(tmp_path):
    adata = small_anndata()
    adata.raw = adata
    adata = adata[:, [5, 1, 2]].copy()
    found = read(written(tmp_path, adata))
    assert list(found.var_names) == [SYMBOLS[gene] for gene in (5, 1, 2)]
    np.testing.assert_array_equal(found.X.toarray(), TRUTH.counts[:, [5, 1, 2]])


def test_a_file_without_raw_counts_is_refused(tmp_path):
    adata = small_anndata()
    adata.X = np.log1p(adata.X.toarray())
    refused(written(tmp_path, adata), r"raw counts are needed .*fractional")
    adata.raw = adata
    refused(written(tmp_path, adata), r"raw counts are needed .*X: .*raw/X: ")
    del adata.raw
    adata.X = None
    refused(written(tmp_path, adata), "none of these is there")


def test_a_layer_of_counts_that_holds_none_is_not_passed_over(tmp_path):
    adata = small_anndata()
    adata.layers["counts"] = adata.X * 0.5
    refused(written(tmp_path, adata), "fractional")


@pytest.mark.parametrize(
    "column",
    [
        np.array([1, 0] * 6),
        np.array([True, False] * 6),
        np.array([1.0, 0.0] * 6),
        pd.Categorical(["1", "0"] * 6),
        pd.Categorical([1, 0] * 6),
        pd.array([True, False] * 6, dtype="boolean"),
        np.array(["1", "0"] * 6),
    ],
)
def test_spots_outside_of_the_tissue_are_left_out(tmp_path, column):
    adata = small_anndata()
    adata.obs["in_tissue"] = column
    found = read(written(tmp_path, adata))
    assert tuple(found.obs_names) == BARCODES[::2]
    np.testing.assert_array_equal(found.X.toarray(), TRUTH.counts[::2])
    np.testing.assert_array_equal(found.obsm["spatial"], TRUTH.pixels[::2])
    np.testing.assert_array_equal(found.obs["array_row"], TRUTH.row[::2])
    assert tuple(found.obs["label"]) == TRUTH.labels[::2]


@pytest.mark.parametrize("missing", [["array_row"], ["array_col"], ["array_row", "array_col"]])
def test_array_coordinates_of_a_square_grid_are_counted(tmp_path, missing):
    adata = small_anndata()
    del adata.obs["label"]
    adata.obs = adata.obs.drop(columns=[*missing, "in_tissue"])
    # A little off the grid, as spots of a real array are.
    adata.obsm["spatial"] += np.random.default_rng(0).uniform(-9, 9, (12, 2))
    found = read(written(tmp_path, adata))
    np.testing.assert_array_equal(found.obs["array_row"], TRUTH.row)
    np.testing.assert_array_equal(found.obs["array_col"], TRUTH.col)
    assert set(found.obs["label"]) == {""}
    assert (found.obs["in_tissue"] == 1).all()


def test_spots_on_no_square_grid_need_array_coordinates(tmp_path):
    adata = small_anndata()
    adata.obs = adata.obs[["label"]]
    adata.obsm["spatial"][0] = adata.obsm["spatial"][1] + 30
    refused(written(tmp_path, adata), "array_row and array_col")
    adata.obsm["spatial"][:] = 5
    refused(written(tmp_path, adata), "share their pixel coordinates")
    refused(written(tmp_path, adata[:1].copy()), "array_row and array_col")


def test_further_columns_of_the_coordinates_are_not_read(tmp_path):
    adata = small_anndata()
    adata.obsm["spatial"] = np.column_stack([TRUTH.pixels, np.full(12, np.pi)])
    assert_is_the_section(read(written(tmp_path, adata)))


@pytest.mark.filterwarnings("ignore:Variable names are not unique", "ignore:Suffix used")
def test_a_symbol_that_occurs_again_is_told_apart(tmp_path):
    adata = small_anndata(SmallSection(genes=("A", "B", "A", "A-1", "C", "A", "D", "E")))
    files = written(tmp_path, adata)
    adata.var_names_make_unique()
    assert list(read(files).var_names) == list(adata.var_names)


def test_a_label_that_is_missing_is_empty(tmp_path):
    adata = small_anndata()
    adata.obs["label"] = pd.Categorical(["fat", None] * 6)
    assert list(read(written(tmp_path, adata)).obs["label"]) == ["fat", ""] * 6


BAD_SECTIONS = {
    "no coordinates": (lambda a: a.obsm.pop("spatial"), "obsm"),
    "coordinates of one axis": (lambda a: a.obsm.update(spatial=TRUTH.pixels[:, :1]), "12 x 1"),
    "coordinates NaN": (lambda a: a.obsm["spatial"].__setitem__((3, 0), np.nan), "not finite"),
    "coordinates infinite": (lambda a: a.obsm["spatial"].__setitem__((3, 1), np.inf), "finite"),
    "a spot twice": (lambda a: setattr(a, "obs_names", ["A", *BARCODES[:10], "A"]), "'A' occurs"),
    "a place twice": (lambda a: a.obs.__setitem__(["array_row", "array_col"], 0), "same array_row"),
    "in_tissue 2": (lambda a: a.obs.__setitem__("in_tissue", 2), "0 or 1"),
    "in_tissue 0": (lambda a: a.obs.__setitem__("in_tissue", 0), "no spot"),
    "in_tissue a word": (lambda a: a.obs.__setitem__("in_tissue", "yes"), "not numeric"),
    "array_row a half": (lambda a: a.obs.__setitem__("array_row", 0.5), "whole number"),
    "array_row NaN": (lambda a: a.obs.__setitem__("array_row", np.nan), "missing"),
    "array_row huge": (lambda a: a.obs.__setitem__("array_row", 1e300), "beyond"),
    "counts NaN": (lambda a: setattr(a, "X", a.X * np.nan), "not finite"),
    "counts huge": (lambda a: setattr(a, "X", a.X * 1e9), "beyond"),
    "counts complex": (lambda a: setattr(a, "X", a.X * 1j), "plain numbers"),
    "a gene without a name": (lambda a: setattr(a, "var_names", ["", *SYMBOLS[1:]]), "no name"),
    "two sections": (
        lambda a: a.uns.update(spatial={"A": {"images": {}}, "B": {"images": {}}}),
        "2 sections",
    ),
}


@pytest.mark.parametrize(("damage", "match"), BAD_SECTIONS.values(), ids=BAD_SECTIONS.keys())
def test_a_section_that_cannot_be_read_is_refused(tmp_path, damage, match):
    adata = small_anndata()
    damage(adata)
    refused(written(tmp_path, adata), match)


def test_a_file_without_spots_is_refused(tmp_path):
    refused(written(tmp_path, small_anndata()[:0].copy()), "empty")


def changed(file, name, place, value):
    values = file[name][()]
    values[place] = value
    file[name][...] = values


LISTS = np.empty(2, dtype=object)
LISTS[:] = [np.array([5, 6], dtype="i4"), np.array([7], dtype="i4")]
BAD_FILES = {
    "index too large": (lambda f: changed(f, "X/indices", 3, 8), "outside"),
    "index twice": (lambda f: changed(f, "X/indices", 1, f["X/indices"][0]), "twice"),
    "indptr falls": (lambda f: changed(f, "X/indptr", 2, 80), "ascend"),
    "shape of others": (lambda f: f["X"].attrs.__setitem__("shape", [8, 12]), "needed"),
    "shape a word": (lambda f: f["X"].attrs.__setitem__("shape", "large"), "neither"),
    "no form": (lambda f: f["X"].attrs.__delitem__("encoding-type"), "neither"),
    "rows as columns": (
        lambda f: f["X"].attrs.__setitem__("encoding-type", "csc_matrix"),
        "rows begin",
    ),
    "a code too large": (lambda f: changed(f, "obs/label/codes", 0, 9), "category"),
    "a code too small": (lambda f: changed(f, "obs/label/codes", 0, -2), "category"),
    "an index elsewhere": (
        lambda f: f["obs"].attrs.__setitem__("_index", "/var/_index"),
        "no data",
    ),
    "an index that is none": (lambda f: f["obs"].attrs.__setitem__("_index", "."), "no data set"),
    "a column that is listed is not there": (lambda f: f.pop("obs/label"), "lacks it"),
    "an attribute of lists": (
        lambda f: f["obs"].attrs.create("_index", LISTS, dtype=h5py.vlen_dtype("i4")),
        "neither text nor numbers",
    ),
    "an attribute too long": (
        lambda f: f["obs"].attrs.__setitem__("_index", np.zeros(20_000, np.int8)),
        "too long",
    ),
    "no index": (lambda f: f.pop("obs/_index"), "no data set"),
    "no obs": (lambda f: f.pop("obs"), "old anndata"),
    "no var": (lambda f: f.pop("var"), "old anndata"),
    "no coordinates": (lambda f: f.pop("obsm"), "obsm"),
    "a soft link": (lambda f: f.__setitem__("uns/a", h5py.SoftLink("/X")), "link"),
    "an external link": (
        lambda f: f.__setitem__("uns/a", h5py.ExternalLink("/etc/hostname", "/")),
        "link",
    ),
    "a loop": (lambda f: f["uns"].__setitem__("a", f["/"]), "another name"),
}


@pytest.mark.parametrize(("damage", "match"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_anndata_did_not_write_so_is_refused(tmp_path, damage, match):
    files = write_h5ad(tmp_path)
    with h5py.File(files["counts"], "r+") as file:
        damage(file)
    refused(files, match)


def test_a_file_of_a_name_alone_is_refused(tmp_path):
    files = {"counts": tmp_path / "section.h5ad"}
    refused(files, "missing")
    files["counts"].write_bytes(b"")
    refused(files, "not an HDF5 file")
    files["counts"].write_text("barcode,x,y\n")
    refused(files, "not an HDF5 file")


@pytest.mark.parametrize("size", [0, 17, 4095, 2**40, 2**64 - 1])
def test_the_mark_of_a_list_of_text_may_occur_among_numbers(tmp_path, size):
    # The library refuses a list of such a size itself: five bytes by chance are no damage.
    files = write_h5ad(tmp_path)
    mark = np.frombuffer(b"GCOL\x01\0\0\0" + size.to_bytes(8, "little") + bytes(64), np.uint8)
    with h5py.File(files["counts"], "r+") as file:
        file["uns/bytes"] = np.tile(mark, 100)
    assert_is_the_section(read(files))


@pytest.mark.parametrize("more", [0, 32 << 20])
def test_a_piece_that_unpacks_to_more_than_it_declares_is_refused(tmp_path, monkeypatch, more):
    monkeypatch.setattr("bench.data.reading.hdf5._BLOCK", 1 << 16)
    files = write_h5ad(tmp_path)
    truth = SmallSection().counts.astype(np.float32)
    with h5py.File(files["counts"], "r+") as file:
        del file["X"]
        shape = truth.shape
        data = file.create_dataset("X", shape, "f4", chunks=shape, compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(truth.tobytes() + bytes(more)))
    if more:
        refused(files, "unpacks to more than it declares")
    else:
        assert_is_the_section(read(files))


def test_two_compressions_of_one_piece_are_refused(tmp_path):
    files = write_h5ad(tmp_path)
    with h5py.File(files["counts"], "r+") as file:
        del file["X"]
        filters = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        filters.set_chunk((12, 8))
        filters.set_deflate(4)
        filters.set_deflate(4)
        space = h5py.h5s.create_simple((12, 8))
        kind = h5py.h5t.IEEE_F32LE
        h5py.h5d.create(file.id, b"X", kind, space, filters)
        file["X"][()] = SmallSection().counts
    refused(files, "unpacks to more than it declares")


@pytest.mark.parametrize("size", [0, 2057, 2**63])
def test_a_list_of_text_that_does_not_add_up_is_refused(tmp_path, size):
    # Some of these the HDF5 library reads for ever.
    files = write_h5ad(tmp_path)
    content = bytearray(files["counts"].read_bytes())
    # The 52nd text of the first collection: sizes stand behind an object's number and two others.
    place = content.index(b"GCOL\x01") + 16
    for _ in range(51):
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place + 8 : place + 16] = size.to_bytes(8, "little")
    files["counts"].write_bytes(content)
    refused(files, "does not add up")


@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_is_refused(tmp_path, form, share):
    files = write_h5ad(tmp_path, form)
    content = files["counts"].read_bytes()
    files["counts"].write_bytes(content[: int(len(content) * share)])
    refused(files)


def test_a_matrix_of_a_trillion_counts_that_the_file_lacks_is_refused(tmp_path):
    files = write_h5ad(tmp_path, "dense")
    with h5py.File(files["counts"], "r+") as file:
        del file["X"]
        file.create_dataset("X", (12, 8), "f4", chunks=(4, 8), maxshape=(None, 8))
        refused_shape = (10**12, 8)
        file["X"].resize(refused_shape)
    refused(files, "is needed")
    with h5py.File(files["counts"], "r+") as file:
        file["X"].resize((12, 8))
    refused(files, "declares more data than the file has")


def test_one_long_text_under_many_names_is_read_in_bounded_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.reading.hdf5.MAX_BYTES", 1 << 20)
    files = write_h5ad(tmp_path)
    with h5py.File(files["counts"], "r+") as file:
        del file["obs/_index"]
        names = [f"{spot}" + "x" * (1 << 17) for spot in range(12)]
        file.create_dataset("obs/_index", data=names, dtype=h5py.string_dtype())
    refused(files, "holds more than")


def test_a_dense_matrix_is_read_in_blocks(tmp_path, monkeypatch):
    rows, columns = 6000, 1500
    counts = np.zeros((rows, columns), dtype=np.float64)
    counts[np.arange(rows), np.arange(rows) % columns] = 1 + np.arange(rows)
    spots = np.arange(rows)
    adata = anndata.AnnData(
        X=counts,
        obs=pd.DataFrame(
            {"array_row": spots // 80, "array_col": spots % 80}, index=map(str, spots)
        ),
        obsm={"spatial": np.column_stack([spots % 80, spots // 80]).astype(float)},
    )
    files = written(tmp_path, adata)
    monkeypatch.setattr("bench.data.reading.hdf5._SMALL", 4 << 20)
    tracemalloc.start()
    try:
        found = read(files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (sp.csr_matrix(counts) != found.X).nnz == 0
    assert peak < counts.nbytes / 2


def with_image(image, scale=0.5, name="S1"):
    adata = small_anndata()
    adata.uns["spatial"] = {
        name: {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": scale}}
    }
    return adata


IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_the_image_inside_is_given_as_bytes(tmp_path, kind, channels):
    opaque = np.full((20, 30, 1), 255, np.uint8)
    image = np.concatenate([IMAGE, opaque], axis=2)[:, :, :channels]
    image = image if kind is np.uint8 else (image / 255).astype(kind)
    files = written(tmp_path, with_image(image))
    found, scale = embedded_image(files["counts"])
    np.testing.assert_array_equal(found, IMAGE)
    assert found.dtype == np.uint8
    assert scale == 0.5
    assert_is_the_section(read(files))


def test_a_file_without_an_image_has_none(tmp_path):
    assert embedded_image(write_h5ad(tmp_path)["counts"]) is None
    adata = small_anndata()
    adata.uns["spatial"] = {"S1": {"images": {"lowres": IMAGE}, "scalefactors": {}}}
    assert embedded_image(written(tmp_path, adata)["counts"]) is None


@pytest.mark.parametrize(
    ("image", "scale", "match"),
    [
        (IMAGE[:, :, 0], 0.5, "dimensions"),
        (IMAGE[:, :, :2], 0.5, "RGB"),
        (IMAGE[:0], 0.5, "RGB"),
        (IMAGE.astype(float), 0.5, "0 to 1"),
        (IMAGE / np.nan, 0.5, "0 to 1"),
        (IMAGE.astype(np.uint16), 0.5, "uint16"),
        (IMAGE, 0.0, "tissue_hires_scalef"),
        (IMAGE, 1.5, "tissue_hires_scalef"),
        (IMAGE, np.nan, "tissue_hires_scalef"),
        (IMAGE, "half", "tissue_hires_scalef"),
    ],
)
def test_an_image_inside_that_is_none_is_refused(tmp_path, image, scale, match):
    files = written(tmp_path, with_image(image, scale))
    with pytest.raises(DataError, match=match) as caught:
        embedded_image(files["counts"])
    assert str(files["counts"]) in str(caught.value)
