"""Predictions as SpatialData stores: elements, coordinate systems, replacement, refusals."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bench.errors import BenchError, DataError
from bench.prediction import spatial_data as room
from bench.prediction.outputs import check_outputs, write_prediction
from bench.staging import atomic_folder
from tests.prediction.made import made_prediction

REASON = "spatialdata is not installed: pip install 'spotbench[spatialdata]'"


@pytest.fixture(scope="module")
def sd():
    return pytest.importorskip("spatialdata", reason=REASON)


def written(sd, adata, path):
    assert write_prediction(adata, path).paths == [path]
    return sd.read_zarr(path)


def extent(sd, store, element, system):
    box = sd.get_extent(store[element], coordinate_system=system)
    return [*box["x"], *box["y"]]


def test_elements_lie_over_each_other_in_pixels_and_micrometres(sd, tmp_path):
    adata = made_prediction(25, 4)  # 5 x 5 spots, 100 px apart, on 100 x 100 px at scale 0.2
    store = written(sd, adata, tmp_path / "slide.zarr")
    assert set(store.coordinate_systems) == {"global", "micrometres"}
    for system, um in (("global", 1.0), ("micrometres", 2.0)):
        assert extent(sd, store, "hires_image", system) == pytest.approx([0, 500 * um] * 2)
        spots = extent(sd, store, "spots", system)
        assert spots == pytest.approx([25 * um, 475 * um] * 2)
    picture = np.asarray(store["hires_image"].data)
    stored = adata.uns["spatial"]["slide"]["images"]["hires"]
    np.testing.assert_array_equal(picture.transpose(1, 2, 0), stored)


def test_the_table_annotates_the_circles(sd, tmp_path):
    adata = made_prediction(25, 4)
    store = written(sd, adata, tmp_path / "slide.zarr")
    circles, table = sd.join_spatialelement_table(
        sdata=store, spatial_element_names="spots", table_name="table", how="left"
    )
    np.testing.assert_array_equal(table.X, adata.X)
    assert list(table.obs_names) == list(adata.obs_names)
    assert table.var["pcc"].equals(adata.var["pcc"])
    points = circles["spots"].geometry
    np.testing.assert_allclose(np.column_stack([points.x, points.y]), adata.obsm["spatial"])
    assert set(circles["spots"]["radius"]) == {25.0}
    assert table.uns["spotbench"]["method"] == "ridge"


def test_without_a_scale_there_are_pixels_alone(sd, tmp_path):
    store = written(sd, made_prediction(25, 2, um=None), tmp_path / "slide.zarr")
    assert store.coordinate_systems == ["global"]


def test_names_of_any_kind_are_kept(sd, tmp_path):
    genes = ["</script>", "a/b", "..", "µ"]
    adata = made_prediction(25, genes, name="a b (1)")
    store = written(sd, adata, tmp_path / "odd name.zarr")
    assert list(store["table"].var_names) == genes


def test_a_store_is_replaced_and_nothing_else_is(sd, tmp_path):
    path, image = tmp_path / "slide.zarr", tmp_path / "image.png"
    written(sd, made_prediction(25, 2), path)
    check_outputs([path], image)
    assert written(sd, made_prediction(25, 3), path)["table"].n_vars == 3
    assert [item.name for item in tmp_path.iterdir()] == ["slide.zarr"]
    other = tmp_path / "other.zarr"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(BenchError, match=r"other\.zarr: is a folder"):
        check_outputs([other], image)
    file = tmp_path / "file.zarr"
    file.write_text("mine")
    with pytest.raises(BenchError, match=r"file\.zarr: is a file"):
        check_outputs([file], image)


def test_a_store_that_fails_leaves_the_old_one(sd, tmp_path, monkeypatch):
    path = tmp_path / "slide.zarr"
    written(sd, made_prediction(25, 2), path)

    def full(store, folder, *rest, **more):
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sd.SpatialData, "write", full)
    with pytest.raises(DataError, match=r"slide\.zarr: cannot be written \(No space left"):
        write_prediction(made_prediction(25, 3), path)
    assert [item.name for item in tmp_path.iterdir()] == ["slide.zarr"]
    assert sd.read_zarr(path)["table"].n_vars == 2


def test_without_the_package_the_command_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"pip install 'spotbench\[spatialdata\]'$"):
        check_outputs([tmp_path / "slide.zarr"], tmp_path / "image.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_complete_or_absent(tmp_path):
    path = tmp_path / "made"

    def half():
        with atomic_folder(path) as temporary:
            temporary.mkdir()
            (temporary / "one").write_text("1")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        half()
    assert list(tmp_path.iterdir()) == []
    for content in ("1", "2"):
        with atomic_folder(path) as temporary:
            (temporary / "below").mkdir(parents=True)
            (temporary / "below" / content).write_text(content)
    assert [item.name for item in (path / "below").iterdir()] == ["2"]
    assert list(tmp_path.iterdir()) == [path]
