import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image
from pydantic import TypeAdapter, ValidationError

import bench.datasets.legacy_st
from bench.data.dataset import open_dataset
from bench.data.images.image import image_size, open_raster
from bench.data.images.patches import PatchSize, PatchSource
from bench.errors import BenchError, DataError
from bench.files import canonical_hash
from bench.protocol.fold_data import slide_of

GOLDEN = Path(__file__).parents[1] / "golden"
SIDE = 400


@pytest.fixture
def files(tmp_path, write_legacy, own_cache):
    """A section of 200 spots x 12 genes and its image, as files."""
    rng = np.random.default_rng(0)
    x, y = np.arange(200) % 20, np.arange(200) // 20
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    counts = pd.DataFrame(
        rng.poisson(0.8, (200, 12)), index=names, columns=[f"G{i}" for i in range(12)]
    )
    spots = pd.DataFrame({"x": x, "y": y, "pixel_x": 10.5 + 18.3 * x, "pixel_y": 12.25 + 30.1 * y})
    files = write_legacy(tmp_path, counts, spots)
    files["image"] = tmp_path / "image.png"
    picture(files["image"])
    return files


def picture(path, seed=0, size=(SIDE, SIDE), **save):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return pixels


@pytest.fixture
def load(tmp_path, make_card):
    """Verify and load section S1 from the files as they now are."""
    return lambda **changes: open_dataset(make_card(**changes), tmp_path).section("S1")


def assert_same(first, second):
    pd.testing.assert_frame_equal(first.obs, second.obs, check_categorical=False)
    pd.testing.assert_frame_equal(first.var, second.var)
    assert (first.X.format, first.X.dtype) == (second.X.format, second.X.dtype)
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())
    np.testing.assert_array_equal(first.obsm["spatial"], second.obsm["spatial"])
    assert first.obsm["spatial"].dtype == second.obsm["spatial"].dtype
    assert first.uns == second.uns


def replace_spots(files, **columns):
    spots = pd.read_csv(files["spots"], sep="\t").assign(**columns)
    spots.to_csv(files["spots"], sep="\t", index=False)


def test_a_loaded_section_has_the_layout_of_the_field(files, load):
    section = load()
    adata = section.adata
    assert isinstance(adata.X, sp.csr_matrix)
    assert np.issubdtype(adata.X.dtype, np.integer)
    assert list(adata.obs.columns) == ["array_row", "array_col", "in_tissue", "label"]
    assert adata.obsm["spatial"].shape == (200, 2)
    assert section.spatial.dtype == np.float64
    np.testing.assert_allclose(section.spatial[21], [10.5 + 18.3, 12.25 + 30.1])
    np.testing.assert_array_equal(section.array_xy[21], [1, 1])
    assert (section.name, section.patient, section.dropped_spots) == ("S1", "P1", 0)
    library = adata.uns["spatial"]["S1"]
    assert set(library) >= {"images", "scalefactors", "metadata"}
    assert library["scalefactors"]["spot_diameter_fullres"] == 50.0
    assert library["metadata"]["source_image_path"] == str(files["image"])


@pytest.mark.filterwarnings("ignore:Use `squidpy", "ignore:The set_bad function")
def test_scanpy_draws_a_loaded_section(files, load):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import scanpy

    adata = load().adata
    axes = scanpy.pl.spatial(adata, color="G1", img_key=None, show=False)
    assert len(axes[0].collections[0].get_paths()) == 200


def test_the_scale_of_a_section_goes_before_that_of_the_card(files, load, card_fields):
    sections = card_fields()["sections"]
    sections[0]["micrometres_per_pixel"] = 0.5
    section = load(sections=sections)
    assert section.micrometres_per_pixel == 0.5
    assert section.adata.uns["spatial"]["S1"]["scalefactors"]["spot_diameter_fullres"] == 200


def test_a_second_read_comes_from_the_cache_and_is_equal(files, load, monkeypatch):
    first = load()
    monkeypatch.setattr(bench.datasets.legacy_st, "read", None)
    second = load()
    assert_same(first.adata, second.adata)


def test_changed_counts_are_read_again(files, load):
    before = load().adata
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0)
    counts.iloc[0, 0] += 5
    counts.to_csv(files["counts"], sep="\t")
    after = load().adata
    assert after.X[0, 0] == before.X[0, 0] + 5


def test_a_changed_spot_file_is_read_again(files, load):
    load()
    replace_spots(files, pixel_x=77.0)
    assert (load().spatial[:, 0] == 77).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"not HDF5" * 1000,
        lambda whole: bytes(len(whole)),
        lambda whole: whole[:3000] + bytes(range(256)) + whole[3256:],
    ],
    ids=["empty", "cut", "other content", "zeros", "a page in the middle"],
)
def test_a_damaged_cached_section_is_read_again(files, load, own_cache, damage):
    first = load().adata
    (cached,) = (own_cache / "sections").glob("*.h5ad")
    cached.write_bytes(damage(cached.read_bytes()))
    assert_same(first, load().adata)
    (again,) = (own_cache / "sections").glob("*.h5ad")
    assert again == cached


def test_two_spots_of_two_hundred_outside_the_image_are_left_out_and_counted(files, load):
    pixel_x = pd.read_csv(files["spots"], sep="\t")["pixel_x"]
    pixel_x[7], pixel_x[30] = -0.5, SIDE
    replace_spots(files, pixel_x=pixel_x)
    section = load()
    assert section.dropped_spots == 2
    assert section.adata.n_obs == 198
    assert "7x0" not in section.adata.obs_names
    assert "10x1" not in section.adata.obs_names
    assert "S1" in section.adata.uns["spatial"]


def test_three_spots_of_two_hundred_outside_the_image_are_refused(files, load):
    pixel_y = pd.read_csv(files["spots"], sep="\t")["pixel_y"]
    pixel_y[:3] = SIDE + 1.0
    replace_spots(files, pixel_y=pixel_y)
    with pytest.raises(DataError, match="section S1: 3 of 200 spots lie outside the image"):
        load()


def test_a_spot_on_the_first_pixel_is_inside_and_one_past_the_last_is_not(files, load):
    pixel_x = pd.read_csv(files["spots"], sep="\t")["pixel_x"]
    pixel_x[0], pixel_x[1], pixel_x[2] = 0.0, SIDE - 0.001, SIDE
    replace_spots(files, pixel_x=pixel_x)
    section = load()
    assert section.dropped_spots == 1
    names = section.adata.obs_names
    assert {"0x0", "1x0"} <= set(names)
    assert "2x0" not in names


def test_a_section_can_be_loaded_without_its_image(files, tmp_path, make_card):
    files["image"].unlink()
    section = open_dataset(make_card(), tmp_path, images=False).section("S1")
    assert section.image is None
    assert section.image_hash is None
    with pytest.raises(DataError, match=r"image image\.png is missing"):
        open_dataset(make_card(), tmp_path)


@pytest.mark.parametrize("role", ["counts", "spots"])
def test_a_section_with_one_of_its_tables_missing_is_an_error(files, tmp_path, make_card, role):
    files[role].unlink()
    with pytest.raises(DataError, match="file is missing, while other files") as caught:
        open_dataset(make_card(), tmp_path)
    assert str(files[role]) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"GIF89a" + bytes(100), b"%PDF-1.4"])
def test_what_is_not_an_image_is_refused_by_name(files, load, content):
    files["image"].write_bytes(content)
    with pytest.raises(DataError, match="image cannot be read") as caught:
        load()
    assert str(files["image"]) in str(caught.value)


def test_a_truncated_jpeg_is_refused_when_it_is_cut(files, load, own_cache):
    picture(files["image"], format="JPEG")
    whole = files["image"].read_bytes()
    files["image"].write_bytes(whole[: len(whole) // 2])
    source = patch_source(load())
    with pytest.raises(DataError, match=r"image\.png: image cannot be read .*truncated"):
        source.cut(32)
    assert not list(own_cache.rglob("*.npy"))


def test_an_image_beyond_the_ceiling_of_the_card_is_refused(files, load):
    assert load(max_image_pixels=SIDE * SIDE).adata.n_obs == 200
    with pytest.raises(DataError, match=r"400 x 400 px exceeds the card's ceiling of 159999 px"):
        load(max_image_pixels=SIDE * SIDE - 1)


@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
def test_a_png_whose_header_claims_a_giant_image_is_refused_by_its_header(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = zlib.compress(bytes(1000))
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data))
        + b"IDAT"
        + data
        + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    )
    with pytest.raises(DataError, match="exceeds the card's ceiling"):
        image_size(path, 150_000_000)


def test_the_ceiling_of_pillow_is_put_back(files):
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="ceiling"):
        image_size(files["image"], 10)
    assert image_size(files["image"], 10**6) == (SIDE, SIDE)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_refused_or_decoded(tmp_path, kind, options):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    whole, rng, path = buffer.getvalue(), np.random.default_rng(2), tmp_path / "damaged"
    refusals = []
    for attempt in range(60):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[rng.integers(len(damaged)) :]
        for place in rng.integers(len(damaged), size=3 * (attempt % 3)) if damaged else ():
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            with open_raster(path, 10**5) as raster:
                raster.crop(0, 0, *raster.size)
        except BenchError as error:
            refusals.append(str(error))
        except Exception as error:
            raise AssertionError(f"{bytes(damaged)!r} gave {error!r}") from error
    assert len(refusals) >= 10
    assert all(str(path) in message for message in refusals)


def patch_source(section):
    return PatchSource(section.image, section.image_hash, section.max_image_pixels, section.spatial)


def by_hand(pixels, centres, size):
    """Crops of a zero-padded array: (spots, size, size, 3)."""
    padded = np.pad(pixels, ((size, size), (size, size), (0, 0)))
    patches = []
    for x, y in centres:
        left = int(np.floor(x)) - size // 2 + size
        top = int(np.floor(y)) - size // 2 + size
        patches.append(padded[top : top + size, left : left + size])
    return np.stack(patches)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 224])
def test_patches_equal_a_plain_crop_with_black_beyond_the_border(files, load, size):
    section = load()
    pixels = np.asarray(Image.open(files["image"]))
    patches = patch_source(section).cut(size)
    assert patches.dtype == np.uint8
    np.testing.assert_array_equal(patches, by_hand(pixels, section.spatial, size))
    if size == 224:
        assert (patches[0][0] == 0).all()


def test_the_centre_of_a_patch_is_the_floor_of_the_coordinates(files, own_cache):
    pixels = np.asarray(Image.open(files["image"]))
    centres = np.array([[100.0, 50.0], [100.999, 50.999], [99.999, 50.0], [0.4, 0.4]])
    patches = PatchSource(files["image"], "sha256:x", 10**6, centres).cut(1)
    np.testing.assert_array_equal(
        patches[:, 0, 0], [pixels[50, 100], pixels[50, 100], pixels[50, 99], pixels[0, 0]]
    )


def test_resampled_patches_are_averages_over_the_area(files, load):
    source = patch_source(load())
    small = source.cut(64, 16)
    assert small.shape == (200, 16, 16, 3)
    means = source.cut(64).reshape(200, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - means).max() <= 1


@pytest.mark.parametrize(
    ("size", "pixels"), [(0, None), (-4, None), (5000, 224), (32, 0), (32, 5000)]
)
def test_patches_of_impossible_size_are_refused(files, load, size, pixels):
    with pytest.raises(DataError, match="cannot be cut"):
        patch_source(load()).cut(size, pixels)


def test_patches_larger_than_the_image_has_pixels_are_interpolated(files, load):
    section = load()
    grown = patch_source(section).cut(16, 40)
    assert grown.shape == (200, 40, 40, 3)
    for small, large in zip(patch_source(section).cut(16)[:20], grown[:20], strict=True):
        wanted = Image.fromarray(small).resize((40, 40), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(large, np.asarray(wanted))


def ramp(height, width):
    """Colours that name their place: red across, green down."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255.0 / width, y * 255.0 / height, 0 * x], axis=-1)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.1, 0.0411])
@pytest.mark.parametrize("pixels", [8, 224])
def test_patches_of_a_reduced_image_show_the_same_tissue(tmp_path, own_cache, scale, pixels):
    side = 4000
    reduced = round(side * scale)
    path = tmp_path / "hires.png"
    Image.fromarray(np.rint(ramp(reduced, reduced)).astype(np.uint8)).save(path)
    centres = np.random.default_rng(0).uniform(300, side - 300, (30, 2))
    source = PatchSource(path, "sha256:x", 10**8, centres, reduced / side)
    patches = source.cut(200, pixels)
    assert patches.shape == (30, pixels, pixels, 3)
    middles = patches.astype(float).mean(axis=(1, 2))[:, :2]
    wanted = (np.floor(centres) - 0.5 / scale) * 255 / side  # a pixel's colour is of its corner
    assert np.abs(middles - wanted).max() < 1.0
    spread = np.ptp(patches[..., 0].astype(float), axis=(1, 2))
    assert np.abs(spread - 200 * 255 / side).max() < 2 + 255 / reduced + 200 * 255 / side / pixels


def test_half_an_image_gives_half_the_pixels_where_they_fall_together(tmp_path, own_cache):
    path = tmp_path / "half.png"
    pixels = picture(path, size=(200, 150))
    centres = np.array([[200.0, 150.0], [100.9, 60.2], [4.0, 4.0]])
    patches = PatchSource(path, "sha256:x", 10**6, centres, 0.5).cut(32, 16)
    for (x, y), patch in zip([(100, 75), (50, 30), (2, 2)], patches, strict=True):
        padded = np.pad(pixels, ((16, 16), (16, 16), (0, 0)))
        np.testing.assert_array_equal(patch, padded[y + 8 : y + 24, x + 8 : x + 24])


def test_a_patch_of_less_than_two_pixels_of_a_reduced_image_is_refused(files, own_cache):
    source = PatchSource(files["image"], "sha256:x", 10**6, np.array([[900.0, 900.0]]), 0.1)
    assert source.cut(20, 16).shape == (1, 16, 16, 3)
    with pytest.raises(DataError, match="cannot be cut; ask for 20 px or more") as caught:
        source.cut(19, 16)
    assert str(files["image"]) in str(caught.value)


def test_the_scale_of_an_image_is_part_of_the_key_where_it_is_not_one(files):
    centres = np.array([[100.0, 50.0]])
    plain = PatchSource(files["image"], "sha256:x", 10**6, centres)
    scaled = PatchSource(files["image"], "sha256:x", 10**6, centres, 0.5)
    known = canonical_hash([1, "sha256:x", 32, 32, [[84, 34]]])
    assert plain.key(32) == known
    assert scaled.key(32) not in (known, scaled.key(64))


def test_patches_in_micrometres_have_the_size_of_the_scale_and_one_shape(files, load, card_fields):
    sections = card_fields()["sections"]
    found = {}
    for scale in (2.0, 0.5):
        sections[0]["micrometres_per_pixel"] = scale
        slide = slide_of(load(sections=sections))
        assert slide.micrometres_per_pixel == scale
        found[scale] = slide.patches("40um")
        np.testing.assert_array_equal(found[scale], slide.patches(round(40 / scale), 32))
        assert slide.patches("50.5um", 8).shape == (200, 8, 8, 3)
        assert slide.patches(64).shape == (200, 64, 64, 3)
        assert slide.patches().shape == (200, 32, 32, 3)
    assert found[2.0].shape == found[0.5].shape == (200, 32, 32, 3)


def test_micrometres_without_a_scale_or_with_another_unit_are_refused(load, files):
    slide = slide_of(load())
    with pytest.raises(DataError, match="section S1: patches of 40um need the scale"):
        replace(slide, micrometres_per_pixel=None).patches("40um")
    for size in ("40mm", "40 um", "-40um", "1e2um", "", "40um\n"):
        with pytest.raises(DataError, match="section S1: patch size"):
            slide.patches(size)
    for size in ("0um", "99999um"):
        with pytest.raises(DataError, match="cannot be cut"):
            slide.patches(size)


def test_the_scale_of_a_reduced_image_reaches_its_patches(files, load, card_fields):
    sections = card_fields()["sections"]
    sections[0]["image_scale"] = 0.5
    section = load(sections=sections)
    source = slide_of(section).patch_source
    assert source.image_scale == section.image_scale == 0.5
    wanted = PatchSource(files["image"], section.image_hash, 10**6, section.spatial, 0.5)
    np.testing.assert_array_equal(slide_of(section).patches(32), wanted.cut(32))


@pytest.mark.parametrize("value", [8, 224, 4096, "150um", "112.5um", None])
def test_a_patch_size_is_a_setting(value):
    assert TypeAdapter(PatchSize).validate_python(value) == value


@pytest.mark.parametrize("value", [7, 4097, "150", "um", "1.um", "150 um", "150px", 10.5, True])
def test_what_is_no_patch_size_is_refused_as_a_setting(value):
    with pytest.raises(ValidationError):
        TypeAdapter(PatchSize).validate_python(value, strict=True)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_an_image_of_another_mode_gives_rgb_patches(tmp_path, own_cache, mode):
    path = tmp_path / "image.tif"
    picture(path, size=(60, 40))
    with Image.open(path) as image:
        image.convert(mode).save(path)
    patches = PatchSource(path, "sha256:x", 10**6, np.array([[30.0, 20.0]])).cut(8)
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("RGB"))[16:24, 26:34]
    np.testing.assert_array_equal(patches[0], wanted)


def test_a_second_cut_comes_from_the_store_as_a_read_only_map(files, load):
    source = patch_source(load())
    first = np.array(source.cut(32))
    files["image"].unlink()
    second = source.cut(32)
    np.testing.assert_array_equal(first, second)
    assert isinstance(second, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 0
    with pytest.raises(DataError, match="image is missing"):
        source.cut(16)


def test_the_first_cut_is_a_read_only_map_as_well(files, load):
    patches = patch_source(load()).cut(32)
    assert isinstance(patches, np.memmap)
    assert not patches.flags.writeable


def test_another_image_or_other_centres_are_cut_anew(files, load):
    section = load()
    before = np.array(patch_source(section).cut(16))
    pixels = picture(files["image"], seed=1)
    changed = load()
    assert changed.image_hash != section.image_hash
    after = patch_source(changed).cut(16)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, by_hand(pixels, changed.spatial, 16))
    moved = changed.spatial[::-1].copy()
    reversed_order = PatchSource(files["image"], changed.image_hash, 10**6, moved).cut(16)
    np.testing.assert_array_equal(reversed_order, after[::-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:50],
        lambda whole: whole[:-1],
        lambda whole: bytes(len(whole)),
        lambda whole: b"PK\x03\x04" + whole,
    ],
    ids=["empty", "cut header", "one byte short", "zeros", "looks like a zip file"],
)
def test_a_damaged_store_file_is_cut_again(files, load, own_cache, damage):
    source = patch_source(load())
    first = np.array(source.cut(32))
    (stored,) = (own_cache / "patches").iterdir()
    stored.write_bytes(damage(stored.read_bytes()))
    np.testing.assert_array_equal(source.cut(32), first)
    (again,) = (own_cache / "patches").iterdir()
    assert again == stored


def test_a_store_file_of_another_shape_or_type_is_cut_again(files, load, own_cache):
    source = patch_source(load())
    first = np.array(source.cut(32))
    (stored,) = (own_cache / "patches").iterdir()
    for other in (first[:-1], first.astype(np.float32)):
        np.save(stored, other)
        np.testing.assert_array_equal(source.cut(32), first)


def test_a_write_that_fails_is_not_blamed_on_the_image(files, load, own_cache):
    resource = pytest.importorskip("resource")
    source = patch_source(load())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises((OSError, BenchError)) as caught:
            source.cut(32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "image cannot be read" not in str(caught.value)
    assert list((own_cache / "patches").iterdir()) == []


def test_patches_equal_those_of_the_released_dataset_class(tmp_path, own_cache):
    facts = json.loads((GOLDEN / "patches_a.json").read_text())
    with np.load(GOLDEN / "patches_a.npz", allow_pickle=False) as stored:
        corner = stored["mclstexp_corner"]
    recipe = facts["inputs"][0]
    rng = np.random.default_rng(zlib.crc32(f"{facts['seed']}:input:slide".encode()))
    pixels = rng.integers(0, 256, size=recipe["shape"], dtype=np.uint8)
    assert zlib.crc32(pixels.tobytes()) == recipe["crc32_of_array_bytes"]
    path = tmp_path / "slide.png"
    Image.fromarray(pixels).save(path)

    centres = np.array(facts["centres_x_y"], dtype=np.float64)
    patches = PatchSource(path, "sha256:x", 10**6, centres).cut(224)
    scaled = np.ascontiguousarray(patches.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    np.testing.assert_array_equal(scaled[:, :, 110:114, 110:114], corner)
    sums = [zlib.crc32(patch.tobytes()) for patch in scaled]
    assert sums == facts["results"]["mclstexp"]["crc32_per_patch"]
