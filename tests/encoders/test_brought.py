import zlib

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from bench.encoders.brought import SpotPlaces, match, read_features, store_matched
from bench.errors import DataError

COUNT, WIDTH = 200, 3


@pytest.fixture
def spots():
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(10)), axis=-1).reshape(-1, 2)
    names = tuple(f"AAAC{number:03d}-1" for number in range(COUNT))
    return SpotPlaces("S1", names, 100.0 * grid + 50)


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)


@pytest.fixture
def order():
    return np.random.default_rng(1).permutation(COUNT)


def write_h5(path, values, **datasets):
    with h5py.File(path, "w") as file:
        file["features"] = values
        for name, (content, attributes) in datasets.items():
            file[name] = content
            file[name].attrs.update(attributes)
    return path


def matched(path, spots):
    return np.load(store_matched(path, spots))


def barcodes(spots, order):
    return np.array([[spots.names[row].encode()] for row in order])


@pytest.mark.parametrize("form", ["barcode", "trident", "hest", "centres", "one more axis"])
def test_h5_files_are_matched_by_barcode_or_place(own_cache, spots, values, order, tmp_path, form):
    corner = spots.spatial[order] - 112 / 2
    more = {
        "barcode": {"barcode": (barcodes(spots, order), {})},
        "trident": {"coords": (corner.astype(np.int64), {"patch_size_level0": 112})},
        "hest": {"coords": (corner, {"patch_size_src": 112, "patch_size_target": 224})},
        "centres": {"coords": (spots.spatial[order] + 3, {})},
        "one more axis": {"barcode": (barcodes(spots, order), {})},
    }[form]
    shown = values[order][None] if form == "one more axis" else values[order]
    path = write_h5(tmp_path / "S1.h5", shown, **more)
    np.testing.assert_array_equal(matched(tmp_path, spots), values)
    np.testing.assert_array_equal(matched(path, spots), values)


@pytest.mark.parametrize("key", ["features", "X_uni"])
def test_h5ad_files_are_matched_by_name(own_cache, spots, values, order, tmp_path, key):
    obs = pd.DataFrame(index=[spots.names[row] for row in order])
    obsm = {key: values[order], "spatial": spots.spatial[order]}
    AnnData(np.zeros((COUNT, 1), np.float32), obs=obs, obsm=obsm).write_h5ad(tmp_path / "S1.h5ad")
    np.testing.assert_array_equal(matched(tmp_path, spots), values)


@pytest.mark.parametrize("form", ["tensor", "half", "dict", "npy"])
def test_tensors_and_arrays_have_a_row_a_spot(own_cache, spots, values, order, tmp_path, form):
    if form == "npy":
        np.save(tmp_path / "S1.npy", values)
    elif form == "dict":
        content = {
            "features": torch.from_numpy(values[order]),
            "coords": torch.from_numpy(spots.spatial[order]),
        }
        torch.save(content, tmp_path / "S1.pt")
    else:
        tensor = torch.from_numpy(values)
        torch.save(tensor.half() if form == "half" else tensor, tmp_path / "S1.pt")
    tolerance = 1e-3 if form == "half" else 0
    np.testing.assert_allclose(matched(tmp_path, spots), values, atol=tolerance, rtol=tolerance)


def test_a_few_spots_without_features_take_those_of_the_nearest(spots, values, tmp_path):
    kept = np.delete(np.arange(COUNT), [5])
    path = write_h5(tmp_path / "S1.h5", values[kept], barcode=(barcodes(spots, kept), {}))
    found, missing = match(read_features(path), spots, "x")
    assert missing == 1
    nearest = found[5]
    assert any(np.array_equal(nearest, values[row]) for row in (4, 6, 25))
    np.testing.assert_array_equal(found[kept], values[kept])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("another slide", "200 of 200 spots of section S1 have no features"),
        ("two per cent", "4 of 200 spots"),
        ("shifted", "have no features"),
        ("count", "199 rows without barcodes or coordinates, but section S1 has 200 spots"),
        ("nan", "not finite"),
        ("twice", "not unique"),
        ("barcodes short", "199 barcodes for 200 rows"),
        ("text", "not plain numbers"),
        ("complex", "not plain numbers"),
        ("flat", "not a matrix"),
        ("empty", "not finite|not a matrix"),
        ("no features", "no dataset features"),
        ("cut", "truncated or damaged"),
    ],
)
def test_features_of_something_else_are_refused(spots, values, tmp_path, damage, said):
    rows = np.arange(COUNT)
    names = {"barcode": (barcodes(spots, rows), {})}
    path = tmp_path / "S1.h5"
    if damage == "another slide":
        other = np.array([[f"GGGT{row}-1".encode()] for row in rows])
        write_h5(path, values, barcode=(other, {}))
    elif damage == "two per cent":
        write_h5(path, values[4:], barcode=(barcodes(spots, rows[4:]), {}))
    elif damage == "shifted":
        write_h5(path, values, coords=(spots.spatial + 40, {}))
    elif damage == "count":
        write_h5(path, values[1:])
    elif damage == "nan":
        write_h5(path, np.where(values > 2, np.nan, values), **names)
    elif damage == "twice":
        write_h5(path, values, barcode=(barcodes(spots, np.zeros(COUNT, int)), {}))
    elif damage == "barcodes short":
        write_h5(path, values, barcode=(barcodes(spots, rows[1:]), {}))
    elif damage == "text":
        write_h5(path, np.full((COUNT, 2), b"x"), **names)
    elif damage == "complex":
        write_h5(path, values.astype(np.complex64), **names)
    elif damage == "flat":
        write_h5(path, values.ravel(), **names)
    elif damage == "empty":
        write_h5(path, values[:0])
    elif damage == "no features":
        with h5py.File(path, "w") as file:
            file["x"] = values
    else:
        write_h5(path, values, **names)
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=said) as refusal:
        store_matched(path, spots)
    assert "\n" not in str(refusal.value)


def test_files_that_run_code_or_lead_elsewhere_are_refused(spots, values, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"features": Hostile()}, tmp_path / "S1.pt")
    with pytest.raises(DataError):
        store_matched(tmp_path / "S1.pt", spots)
    assert not (tmp_path / "executed").exists()
    np.save(tmp_path / "objects.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        store_matched(tmp_path / "objects.npy", spots)
    outside = write_h5(tmp_path / "outside.h5", values)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["features"] = h5py.ExternalLink(str(outside), "features")
    with pytest.raises(DataError):
        store_matched(tmp_path / "link.h5", spots)


@pytest.mark.parametrize("suffix", [".h5", ".h5ad"])
def test_features_that_unpack_to_more_than_they_declare_are_refused(
    own_cache, spots, values, tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr("bench.data.reading.hdf5._BLOCK", 1 << 16)
    path = tmp_path / f"S1{suffix}"
    name = "features"
    if suffix == ".h5ad":
        name = "obsm/features"
        obs = pd.DataFrame(index=list(spots.names))
        AnnData(np.zeros((COUNT, 1), np.float32), obs=obs).write_h5ad(path)
    with h5py.File(path, "a") as file:
        data = file.create_dataset(name, values.shape, "f4", chunks=values.shape, compression=9)
        data.id.write_direct_chunk((0, 0), zlib.compress(values.tobytes() + bytes(32 << 20)))
    with pytest.raises(DataError, match="unpacks to more than it declares"):
        store_matched(path, spots)


def test_more_features_than_the_file_can_hold_are_refused(own_cache, spots, tmp_path):
    with h5py.File(tmp_path / "S1.h5", "w") as file:
        file.create_dataset("features", (COUNT, 1 << 40), "f4", chunks=(1, 1 << 20))
    with pytest.raises(DataError, match="declares more data than the file has"):
        store_matched(tmp_path, spots)


def test_a_folder_names_the_section_that_is_missing(spots, values, tmp_path):
    with pytest.raises(DataError, match=r"no file of features of section S1 \(S1.h5"):
        store_matched(tmp_path, spots)
    np.save(tmp_path / "S1.npy", values)
    write_h5(tmp_path / "S1.h5", values)
    with pytest.raises(DataError, match="2 files of features of section S1"):
        store_matched(tmp_path, spots)
    with pytest.raises(DataError, match="no such file or folder"):
        store_matched(tmp_path / "absent", spots)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"features are read from \.h5"):
        store_matched(tmp_path / "x.csv", spots)
