"""SpatialData stores against the values written, and against spatialdata's own reading."""

import json
import shutil
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from bench.data.card import read_card
from bench.data.dataset import open_dataset
from bench.data.images.image import open_raster
from bench.datasets import h5ad
from bench.datasets import spatialdata as reader
from bench.errors import DataError
from bench.fetch.add import add_dataset
from bench.fetch.overview import summarize
from bench.fetch.search import find_sections
from bench.fetch.verify import survey, verified_files
from tests.cli import tiny_dataset
from tests.datasets import layouts
from tests.datasets import spatialdata_stores as stores
from tests.datasets.layouts import SmallSection

REASON = "spatialdata is not installed: pip install 'spotbench[spatialdata]'"


@pytest.fixture
def sd():
    """The package; tests by value need it."""
    return pytest.importorskip("spatialdata", reason=REASON)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "data"))


def found(folder):
    return {section.name: section for section in reader.discover(folder)}


def check_values(adata, pixels=None):
    truth = SmallSection()
    assert tuple(adata.obs_names) == truth.names
    assert tuple(adata.var_names) == truth.genes
    assert adata.X.dtype == np.int32
    np.testing.assert_array_equal(adata.X.toarray(), truth.counts)
    np.testing.assert_array_equal(adata.obs["array_row"], truth.row)
    np.testing.assert_array_equal(adata.obs["array_col"], truth.col)
    assert tuple(adata.obs["label"]) == truth.labels
    expected = truth.pixels if pixels is None else pixels
    np.testing.assert_allclose(adata.obsm["spatial"], expected, rtol=0, atol=1e-6)


def state(folder):
    """Content of every file below a folder, and all names."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_a_visium_store_is_read_with_its_full_image(sd, tmp_path, form):
    store = stores.write_visium(tmp_path / "a.zarr", form=form)
    before = state(store)
    section = found(tmp_path)["a"]
    assert section.files["counts"] == store
    assert section.files["image"] == store / "images" / "S1_full_image"
    assert section.image_scale == 1
    assert section.micrometres_per_pixel is None
    assert section.spot_pitch_micrometres == 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_values(reader.read(section.files, **section.settings))
        pixels, scale = reader.embedded_image(section.files["image"], level=0)
    assert scale == 1
    expected = sd.read_zarr(store).images["S1_full_image"]["scale0"].image.to_numpy()
    np.testing.assert_array_equal(pixels, np.moveaxis(expected, 0, 2))
    np.testing.assert_array_equal(pixels, np.moveaxis(stores.he_image(SmallSection()), 0, 2))
    assert state(store) == before


def test_places_are_those_that_spatialdata_transforms_to(sd, tmp_path):
    store = stores.write_visium(tmp_path / "a.zarr")
    section = found(tmp_path)["a"]
    adata = reader.read(section.files, **section.settings)
    data = sd.read_zarr(store)
    circles = sd.transform(data.shapes["S1"], to_coordinate_system="S1").geometry
    own = circles.loc[data.tables["table"].obs["spot_id"]]
    np.testing.assert_allclose(adata.obsm["spatial"], np.column_stack([own.x, own.y]))


def test_the_hires_image_alone_is_a_reduced_one(sd, tmp_path):
    stores.write_visium(tmp_path / "a.zarr", full=False)
    section = found(tmp_path)["a"]
    assert section.files["image"].name == "S1_hires_image"
    assert section.image_scale == pytest.approx(0.1)
    check_values(reader.read(section.files, **section.settings))


def test_samples_of_one_store_are_sections_with_images_of_their_own(sd, tmp_path):
    stores.write_visium(tmp_path / "a.zarr", ["P1", "P2", "P3"])
    sections = found(tmp_path)
    assert list(sections) == ["P1", "P2", "P3"]
    for name, section in sections.items():
        assert section.files["image"].name == f"{name}_full_image"
        check_values(reader.read(section.files, **section.settings))
    with pytest.raises(DataError, match="holds 3 sections"):
        reader.read({"counts": tmp_path / "a.zarr"})


def test_samples_in_one_coordinate_system_are_told_apart_by_name_and_place(sd, tmp_path):
    from spatialdata.transformations import Identity, Translation

    truth = SmallSection()
    images, shapes = {}, {}
    for number, sample in enumerate(["P1", "P2"]):
        aside = Translation([9000 * number, 0], axes=("x", "y")) if number else Identity()
        shapes[sample] = stores.circles(truth, {"global": aside})
        images[f"slide{number}"] = stores.picture(
            stores.he_image(truth, seed=number), {"global": aside}
        )
    tables = {"table": stores.table(["P1", "P2"])}
    stores.write(tmp_path / "a.zarr", images=images, shapes=shapes, tables=tables)
    sections = found(tmp_path)
    assert {name: one.files["image"].name for name, one in sections.items()} == {
        "P1": "slide0",
        "P2": "slide1",
    }
    check_values(reader.read(sections["P2"].files, **sections["P2"].settings))


def test_images_that_nothing_tells_apart_are_not_used(sd, tmp_path):
    from spatialdata.transformations import Identity

    truth = SmallSection()
    shapes = {name: stores.circles(truth, {"global": Identity()}) for name in ("P1", "P2")}
    images = {"he": stores.picture(stores.he_image(truth), {"global": Identity()})}
    tables = {"table": stores.table(["P1", "P2"])}
    stores.write(tmp_path / "a.zarr", images=images, shapes=shapes, tables=tables)
    for section in found(tmp_path).values():
        assert "image" not in section.files
        assert "no image could be told" in section.assumed[0]


def affine_store(path, matrix, metric=None, side=None):
    """Spots in micrometres, half a pixel each, that an affine matrix puts on the image."""
    from spatialdata.transformations import Affine, Identity, Scale

    truth = SmallSection()
    turned = np.eye(3)
    turned[:2] = matrix
    systems = {"aligned": Affine(turned, ("x", "y"), ("x", "y"))}
    if metric is not None:
        systems[metric] = Scale([1.0, 1.0], axes=("x", "y"))
    shapes = {"S1": stores.circles(truth, systems, scale=0.5)}
    pixels = stores.he_image(truth)
    if side is not None:
        pixels = np.resize(pixels, (3, side, side))
    images = {"he": stores.picture(pixels, {"aligned": Identity()}, [2])}
    return stores.write(path, images=images, shapes=shapes, tables={"t": stores.table(["S1"])})


@pytest.mark.parametrize("metric", [None, "microns"])
def test_spots_in_micrometres_come_into_pixels_of_the_image(sd, tmp_path, metric):
    affine_store(tmp_path / "a.zarr", [[2, 0, 5], [0, 2, -3]], metric)
    section = found(tmp_path)["a"]
    check_values(
        reader.read(section.files, **section.settings),
        SmallSection().pixels + np.array([5.0, -3.0]),
    )
    assert section.micrometres_per_pixel == (None if metric is None else pytest.approx(0.5))
    if metric:
        assert section.spot_pitch_micrometres == pytest.approx(137 / 2)
        assert section.spot_diameter_micrometres == pytest.approx(stores.RADIUS)


def test_a_unit_of_the_axes_tells_the_scale(sd, tmp_path):
    store = affine_store(tmp_path / "a.zarr", [[2, 0, 0], [0, 2, 0]], "slide")
    for path in (store / "shapes/S1/zarr.json", store / "zarr.json"):
        content = json.loads(path.read_text())
        held = content.get("consolidated_metadata", {}).get("metadata", {}).get("shapes/S1")
        for one in (held or content)["attributes"]["coordinateTransformations"]:
            if one["output"]["name"] == "slide":
                for axis in one["output"]["axes"]:
                    axis["unit"] = "micrometer"
        path.write_text(json.dumps(content))
    assert found(tmp_path)["a"].micrometres_per_pixel == pytest.approx(0.5)


def test_a_turned_image_is_met(sd, tmp_path):
    affine_store(tmp_path / "a.zarr", [[0, 2, 0], [2, 0, 0]], side=1500)
    section = found(tmp_path)["a"]
    turned = SmallSection().pixels[:, ::-1]
    check_values(reader.read(section.files, **section.settings), turned)


def test_a_smaller_scale_is_used_where_the_largest_does_not_fit(sd, tmp_path, monkeypatch):
    stores.write_visium(tmp_path / "a.zarr")
    truth = stores.he_image(SmallSection())
    monkeypatch.setattr("bench.datasets.spatialdata.store.MAX_BYTES", truth.nbytes - 1)
    section = found(tmp_path)["a"]
    assert section.settings["level"] == 1
    assert section.image_scale == pytest.approx(0.5, rel=0.01)
    pixels, scale = reader.embedded_image(section.files["image"], level=1)
    assert scale == section.image_scale
    assert pixels.shape[1] == truth.shape[2] // 2
    check_values(reader.read(section.files, **section.settings))
    with pytest.raises(DataError, match="is larger than"):
        reader.embedded_image(section.files["image"], level=0)
    with pytest.raises(DataError, match="no scale 9"):
        reader.embedded_image(section.files["image"], level=9)


def test_a_table_alone_has_its_places_in_obsm(sd, tmp_path):
    tables = {"table": stores.table(["S1"], annotates=False)}
    images = {"he": stores.picture(stores.he_image(SmallSection()), {})}
    stores.write(tmp_path / "a.zarr", tables=tables, images=images)
    section = found(tmp_path)["a"]
    assert section.files["image"].name == "he"
    check_values(reader.read(section.files, **section.settings))


@pytest.mark.parametrize("version", ["2", "3"])
def test_what_an_analysis_left_in_the_table_does_not_matter(sd, tmp_path, version):
    from spatialdata._io.format import SpatialDataContainerFormatV01, SpatialDataContainerFormatV02
    from spatialdata.transformations import Identity

    table = stores.table(["S1"])
    scores = np.array([(1.5, 2), (0.5, 3)], dtype=[("P1", "<f4"), ("P2", "<i4")])
    table.uns["ranks"] = {"scores": scores, "method": "wilcoxon", "n": 3}
    table.obs["kept"] = np.arange(12) % 2 == 0
    table.obs["seen"] = pd.array([True, None] * 6, dtype="boolean")
    table.layers["logs"] = np.log1p(table.X.toarray())
    forms = {"2": SpatialDataContainerFormatV01, "3": SpatialDataContainerFormatV02}
    shapes = {"S1": stores.circles(SmallSection(), {"global": Identity()})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sd.SpatialData(tables={"table": table}, shapes=shapes).write(
            tmp_path / "a.zarr", sdata_formats=forms[version]()
        )
    check_values(reader.read({"counts": tmp_path / "a.zarr"}))


def test_array_coordinates_are_counted_where_there_are_none(sd, tmp_path):
    stores.write_visium(tmp_path / "a.zarr", array=False)
    section = found(tmp_path)["a"]
    adata = reader.read(section.files, **section.settings)
    np.testing.assert_array_equal(adata.obs["array_row"], SmallSection().row)
    np.testing.assert_array_equal(adata.obs["array_col"], SmallSection().col)


def test_an_image_beside_the_store_is_used_where_it_has_none(sd, tmp_path):
    from PIL import Image
    from spatialdata.transformations import Identity

    truth = SmallSection()
    shapes = {"S1": stores.circles(truth, {"global": Identity()})}
    stores.write(tmp_path / "a.zarr", shapes=shapes, tables={"t": stores.table(["S1"])})
    assert "no RGB image" in found(tmp_path)["a"].assumed[0]
    pixels = np.moveaxis(stores.he_image(truth), 0, 2)
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "a.png")
    section = found(tmp_path)["a"]
    assert section.files["image"] == tmp_path / "a.png"
    check_values(reader.read(section.files, **section.settings))


def test_a_fluorescence_image_is_none(sd, tmp_path):
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity

    truth = SmallSection()
    stain = Image2DModel.parse(
        np.zeros((2, 1500, 1500), np.uint8), dims=("c", "y", "x"), c_coords=["dapi", "cd3"]
    )
    shapes = {"S1": stores.circles(truth, {"global": Identity()})}
    tables = {"t": stores.table(["S1"])}
    stores.write(tmp_path / "a.zarr", shapes=shapes, tables=tables, images={"stain": stain})
    assert "image" not in found(tmp_path)["a"].files


def test_a_store_of_zarr_version_2_is_read(sd, tmp_path):
    from spatialdata._io.format import SpatialDataContainerFormatV01

    stores.write_visium(tmp_path / "new.zarr")
    data = sd.read_zarr(tmp_path / "new.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write(tmp_path / "old" / "a.zarr", sdata_formats=SpatialDataContainerFormatV01())
    assert (tmp_path / "old" / "a.zarr" / ".zgroup").is_file()
    section = found(tmp_path / "old")["a"]
    check_values(reader.read(section.files, **section.settings))
    pixels, _ = reader.embedded_image(section.files["image"])
    np.testing.assert_array_equal(pixels, np.moveaxis(stores.he_image(SmallSection()), 0, 2))


# As a dataset


def patients(folder, names):
    path = folder / "patients.csv"
    path.write_text("section,patient\n" + "".join(f"{n},{n}\n" for n in names))
    return path


def test_a_folder_of_stores_is_added_shown_and_read(sd, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("A1", "B1"):
        stores.write_visium(slides / f"{name}.zarr", [f"{name}x"])
    before = state(slides)
    added = add_dataset(slides, "mine", patients(tmp_path, ["A1", "B1"]), ())
    card = read_card(added.path)
    assert card.layout == "spatialdata"
    assert [section.name for section in card.sections] == ["A1", "B1"]
    assert card.sections[0].files["counts"].path == "A1.zarr"
    assert card.sections[0].files["image"].path == "A1.zarr/images/A1x_full_image"
    dataset = open_dataset(card)
    section = dataset.section("A1")
    check_values(section.adata)
    assert section.micrometres_per_pixel == pytest.approx(100 / 137)
    with open_raster(section.image, card.max_image_pixels) as raster:
        np.testing.assert_array_equal(
            raster.crop(3, 5, 40, 30),
            np.moveaxis(stores.he_image(SmallSection()), 0, 2)[5:35, 3:43],
        )
    # What was cached is read again with the same hash.
    assert dataset.section("A1").image_hash == section.image_hash
    (overview, _) = summarize(card, slides)
    assert (overview.spots, overview.genes, overview.missing) == (12, 8, ())
    report = survey(verified_files(card, slides), slides)
    assert not report.wrong
    assert not report.missing
    assert state(slides) == before


def test_a_store_itself_is_added(sd, tmp_path):
    store = stores.write_visium(tmp_path / "a.zarr", ["P1", "P2"])
    added = add_dataset(store, "mine", patients(tmp_path, ["P1", "P2"]), ())
    card = read_card(added.path)
    dataset = open_dataset(card)
    hashes = dataset.hashes
    assert hashes["P1"]["counts"] == hashes["P2"]["counts"]
    assert hashes["P1"]["image"] != hashes["P2"]["image"]
    for section in dataset:
        check_values(section.adata)


def test_a_changed_store_is_refused_and_a_lost_one_left_out(sd, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("A1", "B1"):
        stores.write_visium(slides / f"{name}.zarr")
    added = add_dataset(slides, "mine", patients(tmp_path, ["A1", "B1"]), ())
    shutil.rmtree(slides / "A1.zarr")
    dataset = open_dataset(added.card)
    assert list(dataset.hashes) == ["B1"]
    assert "missing" in dataset.left_out["A1"]
    piece = slides / "B1.zarr" / "tables" / "table" / "X" / "data" / "c" / "0"
    piece.write_bytes(piece.read_bytes()[:-1])
    with pytest.raises(DataError, match="the card says"):
        open_dataset(added.card)
    assert set(survey(verified_files(added.card, slides), slides).wrong) == {"B1.zarr"}


# Damage, hostility


def test_a_damaged_store_is_refused_in_a_line(sd, tmp_path):
    store = stores.write_visium(tmp_path / "a.zarr")
    (store / "shapes" / "S1" / "shapes.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="parquet: damaged") as refusal:
        reader.read({"counts": store})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spot_id": 7}, "same shape"),
        ({"spot_id": np.arange(12)}, "is not in"),
        (0.5, "fractional"),
        (-1, "negative"),
        ({"in_tissue": 0}, "no spot lies in the tissue"),
        ({"array_row": 1, "array_col": 1}, "same array_row"),
    ],
)
def test_a_table_that_is_no_measurement_is_refused(sd, tmp_path, change, reason):
    from spatialdata.transformations import Identity

    table = stores.table(["S1"])
    if isinstance(change, dict):
        table.obs = table.obs.assign(**change)
    else:
        table.X = table.X * change
    shapes = {"S1": stores.circles(SmallSection(), {"global": Identity()})}
    store = stores.write(tmp_path / "a.zarr", shapes=shapes, tables={"table": table})
    with pytest.raises(DataError, match=reason) as refusal:
        reader.read({"counts": store})
    assert "\n" not in str(refusal.value)


def hand_made(folder):
    """A store of SpatialData in name, as JSON alone."""
    store = folder / "a.zarr"
    store.mkdir(parents=True)
    attributes = {"spatialdata_attrs": {"version": "0.2"}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (store / "zarr.json").write_text(json.dumps(group))
    return store


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    store = hand_made(tmp_path)
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(DataError, match=r"pip install 'spotbench\[spatialdata\]'"):
        reader.read({"counts": store})
    with pytest.raises(DataError, match=r"pip install 'spotbench\[spatialdata\]'"):
        find_sections(tmp_path, {})
    result = tiny_dataset.call("data", "add", str(tmp_path), "--name", "mine")
    assert result.status == 2
    assert "spotbench[spatialdata]" in result.stderr


def pickled(store):
    inner = store / "tables" / "t" / "X"
    inner.mkdir(parents=True)
    document = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "filters": [{"id": "pickle"}],
        "compressor": None,
        "fill_value": None,
        "order": "C",
    }
    (inner / ".zarray").write_text(json.dumps(document))


def linked(store):
    (store / "tables").symlink_to("/etc")


def damaged(store):
    (store / "zarr.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "reason"), [(pickled, "run code"), (linked, "link"), (damaged, "no JSON")]
)
def test_a_hostile_store_is_refused_before_it_is_opened(tmp_path, monkeypatch, spoil, reason):
    store = hand_made(tmp_path)
    spoil(store)
    monkeypatch.setitem(sys.modules, "spatialdata", None)  # it is not even asked for
    calls = (
        lambda: reader.read({"counts": store}),
        lambda: reader.discover(tmp_path),
        lambda: reader.embedded_image(store / "images" / "he"),
    )
    for call in calls:
        with pytest.raises(DataError, match=reason) as refusal:
            call()
        assert "\n" not in str(refusal.value)
    result = tiny_dataset.call("data", "add", str(tmp_path), "--name", "mine")
    assert result.status == 2
    assert result.stderr.count("\n") == 1


def test_a_zarr_store_of_another_kind_is_told(tmp_path):
    store = hand_made(tmp_path)
    (store / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with pytest.raises(DataError, match="no SpatialData store"):
        reader.discover(tmp_path)


def test_no_other_reader_looks_into_a_store(tmp_path):
    store = hand_made(tmp_path)
    layouts.write_h5ad(tmp_path)
    (store / "linked.h5ad").symlink_to(tmp_path / "section.h5ad")
    assert h5ad.discover(store) == []
    with pytest.raises(DataError, match="link that leads out"):
        find_sections(store, {})
    assert [section.name for section in h5ad.discover(tmp_path)] == ["section"]


def test_rows_and_tables_that_are_left_out_are_said(sd, tmp_path):
    from spatialdata.transformations import Identity

    table, lone = stores.table(["P1", "P2"]), stores.table(["S9"], annotates=False)
    del lone.obsm["spatial"]
    shapes = {name: stores.circles(SmallSection(), {"global": Identity()}) for name in ("P1", "P2")}
    tables = {"table": table, "genes": lone}
    stores.write(tmp_path / "a.zarr", shapes=shapes, tables=tables)
    sections = found(tmp_path)
    assert list(sections) == ["P1", "P2"]
    (said,) = sections["P1"].warnings
    assert said.startswith("table 'genes' annotates no shapes")
    assert said.endswith("left out")
    assert not sections["P2"].warnings


def test_a_transparent_image_of_a_store_is_white(sd, tmp_path):
    from spatialdata.models import Image2DModel

    pixels = np.zeros((4, 6, 5), np.uint8)
    pixels[3, 3:] = 255
    pixels[:3, 3:] = 7
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b", "a"])
    tables = {"table": stores.table(["S1"], annotates=False)}
    store = stores.write(tmp_path / "a.zarr", tables=tables, images={"he": image})
    shown, _ = reader.embedded_image(store / "images" / "he")
    assert (shown[:3] == 255).all()
    assert (shown[3:] == 7).all()
