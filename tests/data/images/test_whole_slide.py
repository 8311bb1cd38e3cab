"""Slides that are read in tiles: pixels of every reader, levels, damage."""

import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from bench.data.images import slide as slide_module
from bench.data.images.image import open_raster
from bench.data.images.slide import LARGEST_REGION, SlideLevel
from bench.data.images.whole_slide import open_slide, slide_hash
from bench.errors import DataError
from tests.data.images.made_slides import smooth, write_bif, write_svs

CEILING = 10**9


def whole(path, level=0, **options):
    with open_slide(path, **options) as slide:
        there = slide.levels[level]
        return slide.read(0, 0, there.width, there.height, level=level)


def refused(path, *words, **options):
    with pytest.raises(DataError) as caught:
        whole(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def difference(one, other):
    return np.abs(one.astype(int) - other).max()


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_both_readers_give_the_pixels_of_an_aperio_slide(tmp_path, compression, bigtiff):
    pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    path = tmp_path / "slide.svs"
    copies = write_svs(path, smooth(300, 404), compression=compression, bigtiff=bigtiff)
    rounding = 2 if compression == "jpeg" else 0  # of two builds of libjpeg
    with open_slide(path, reader="openslide") as by_openslide, open_slide(path) as by_tifffile:
        assert (by_tifffile.reader, by_openslide.reader) == ("tifffile", "openslide")
        assert by_tifffile.levels == by_openslide.levels
        assert [level.reduction for level in by_tifffile.levels] == [1, 2, 4]
        assert by_tifffile.micrometres_per_pixel == by_openslide.micrometres_per_pixel == 0.252
        for number, copy in enumerate(copies):
            height, width = copy.shape[:2]
            one = by_tifffile.read(0, 0, width, height, level=number)
            other = by_openslide.read(0, 0, width, height, level=number)
            assert difference(one, other) <= rounding
            if compression == "deflate":
                np.testing.assert_array_equal(one, copy)
            # Regions, also of odd places that lie over the border.
            for left, top in ((-7, -5), (31, 60), (width - 20, height - 9)):
                one = by_tifffile.read(left, top, 40, 30, level=number)
                other = by_openslide.read(left, top, 40, 30, level=number)
                assert difference(one, other) <= rounding


def test_regions_of_levels_of_a_broken_reduction_agree_to_a_pixel(tmp_path):
    pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    path = tmp_path / "slide.svs"
    copies = write_svs(path, smooth(301, 403), compression="deflate")
    with open_slide(path, reader="openslide") as by_openslide, open_slide(path) as by_tifffile:
        assert by_tifffile.levels == by_openslide.levels
        for number, copy in enumerate(copies[1:], 1):
            steps = max(np.abs(np.diff(copy.astype(int), axis=axis)).max() for axis in (0, 1))
            one = by_tifffile.read(31, 29, 40, 30, level=number)
            other = by_openslide.read(31, 29, 40, 30, level=number)
            assert 0 < difference(one, other) <= steps


def test_pixels_are_those_that_sections_of_datasets_have(tmp_path):
    path = tmp_path / "slide.svs"
    write_svs(path, smooth(301, 403))
    with open_raster(path, CEILING) as raster, open_slide(path) as slide:
        np.testing.assert_array_equal(
            slide.read(-3, 5, 90, 300, outside=(0, 0, 0)), raster.crop(-3, 5, 90, 300)
        )


def test_pixels_outside_are_white_unless_another_colour_is_asked_for(tmp_path):
    path = tmp_path / "image.png"
    pixels = smooth(30, 40)
    Image.fromarray(pixels).save(path)
    with open_slide(path) as slide:
        region = slide.read(-2, -3, 44, 36)
        inside = np.zeros((36, 44), dtype=bool)
        inside[3:33, 2:42] = True
        np.testing.assert_array_equal(region[3:33, 2:42], pixels)
        assert (region[~inside] == 255).all()
        assert (slide.read(100, 100, 5, 5, outside=(1, 2, 3)) == (1, 2, 3)).all()


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, -1), (LARGEST_REGION, 2)])
def test_regions_that_cannot_be_held_are_refused(tmp_path, width, height):
    path = tmp_path / "image.png"
    Image.fromarray(smooth(30, 40)).save(path)
    with open_slide(path) as slide, pytest.raises(DataError, match="cannot be read"):
        slide.read(0, 0, width, height)
    with open_slide(path) as slide, pytest.raises(DataError, match="has 1 levels; 1 is none"):
        slide.read(0, 0, 4, 4, level=1)


@pytest.mark.parametrize(
    ("size", "reduction"),
    [
        ((250, 200), 4.0),  # 1003 x 803 without the rest
        ((251, 201), 4.0),  # with it
        ((1003, 803), 1.0),
        ((300, 240), 1003 / 300),
        ((250, 100), None),
        ((803, 1003), None),
    ],
)
def test_a_level_is_a_copy_of_the_image_up_to_rounding(size, reduction):
    level = SlideLevel.of(size, (1003, 803))
    if reduction is None:
        assert level is None
    else:
        assert level is not None
        assert level.reduction == pytest.approx(reduction, rel=2e-3)
        assert reduction % 1 or level.reduction == reduction


def test_levels_that_are_no_exact_multiples_are_read(tmp_path):
    path = tmp_path / "image.tif"
    pixels = smooth(500, 700)
    picture = Image.fromarray(pixels)
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
        writer.write(pixels, subifds=2, **options)
        for size in ((233, 167), (78, 56)):
            writer.write(np.asarray(picture.resize(size)), subfiletype=1, **options)
    with open_slide(path) as slide:
        sizes = [(level.width, level.height) for level in slide.levels]
        assert sizes == [(700, 500), (233, 167), (78, 56)]
        # 233 and 167 px are 700 and 500 px divided by 3, one rounded down and one up.
        assert [level.reduction for level in slide.levels] == [1, 3, 9]
        assert [slide.level_for(r) for r in (0.5, 1, 2.99, 3, 8.9, 9)] == [0, 0, 0, 1, 1, 2]
        np.testing.assert_array_equal(
            slide.read(0, 0, 78, 56, level=2), np.asarray(picture.resize((78, 56)))
        )


def test_an_overview_comes_from_a_level_and_averages(tmp_path, monkeypatch):
    monkeypatch.setattr(slide_module, "_SMALLEST_OVERVIEW", 32)
    path = tmp_path / "slide.svs"
    copies = write_svs(path, smooth(512, 768), compression="deflate")
    with open_slide(path) as slide:
        small = slide.overview(96)
        wanted = Image.fromarray(copies[2]).reduce(2)
        assert small.size == (96, 64)
        np.testing.assert_array_equal(np.asarray(small), np.asarray(wanted))
        assert slide.overview(2000).size == (768, 512)
    plain = tmp_path / "plain.png"
    Image.fromarray(copies[0]).save(plain)
    with open_slide(plain) as slide:
        direct = np.asarray(slide.overview(96)).astype(int)
    assert np.abs(direct - np.asarray(wanted)).max() <= 2


@pytest.mark.parametrize("form", ["rgba", "gray", "16-bit", "planar", "palette"])
def test_every_kind_of_pixels_becomes_rgb(tmp_path, form):
    path = tmp_path / "image.tif"
    pixels = smooth(80, 90)
    tiled = {"tile": (32, 32), "compression": "deflate"}
    wanted = pixels
    if form == "rgba":
        opacity = np.zeros((80, 90, 1), dtype=np.uint8)
        opacity[:, :45] = 255
        tifffile.imwrite(
            path,
            np.concatenate([pixels, opacity], axis=-1),
            photometric="rgb",
            extrasamples=["unassalpha"],
            **tiled,
        )
        wanted = np.where(opacity == 255, pixels, 255)
    elif form == "gray":
        tifffile.imwrite(path, pixels[..., 0], photometric="minisblack", **tiled)
        wanted = np.repeat(pixels[..., :1], 3, axis=-1)
    elif form == "16-bit":
        tifffile.imwrite(path, pixels.astype(np.uint16) * 257, photometric="rgb", **tiled)
    elif form == "planar":
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **tiled)
    else:
        picture = Image.fromarray(pixels).quantize(64)
        picture.save(path)
        wanted = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(whole(path), wanted)


def test_a_jpeg_is_upright_as_its_exif_says(tmp_path):
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(40, 64)).save(path, quality=95, exif=exif)
    with open_slide(path) as slide, Image.open(path) as image:
        assert (slide.width, slide.height) == (40, 64)
        np.testing.assert_array_equal(
            slide.read(0, 0, 40, 64), np.asarray(image.transpose(Image.Transpose.ROTATE_270))
        )


@pytest.mark.parametrize("reader", ["auto", "tifffile", "openslide"])
def test_what_is_no_slide_is_refused_in_one_line(tmp_path, reader):
    if reader == "openslide":
        pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    text = tmp_path / "text.svs"
    text.write_text("no image\nat all\n" * 100)
    refused(text, "cannot be read", reader=reader)
    empty = tmp_path / "empty.svs"
    empty.write_bytes(b"")
    refused(empty, "cannot be read", reader=reader)
    refused(tmp_path / "absent.svs", "missing", reader=reader)


@pytest.mark.parametrize("name", ["slide.mrxs", "slide.vms", "slide.dcm", "slide.czi"])
def test_formats_of_openslide_alone_are_not_taken_for_pictures(tmp_path, name):
    path = tmp_path / name
    # The file of a MIRAX slide is a JPEG of its label side.
    Image.fromarray(smooth(30, 40)).save(path, format="JPEG")
    refused(path, "OpenSlide")


def test_what_was_not_scanned_has_the_colour_that_the_slide_states(tmp_path, monkeypatch):
    openslide = pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    pixels[:10, :, 3], pixels[10:15, :, 3] = 0, 255

    class Scanned:
        level_dimensions = ((30, 20),)
        level_downsamples = (1.0,)
        properties = {
            "openslide.background-color": "FFE0D0",
            "openslide.mpp-x": "0.25",
            "openslide.mpp-y": "0.2501",
        }

        def __init__(self, path):
            self.path = path

        def read_region(self, corner, level, size):
            (left, top), (width, height) = corner, size
            return Image.fromarray(pixels).crop((left, top, left + width, top + height))

        def set_cache(self, cache):
            self.cache = cache

        def close(self):
            self.path = None

    monkeypatch.setattr(openslide, "OpenSlide", Scanned)
    path = tmp_path / "slide.mrxs"
    path.write_bytes(b"x")
    with open_slide(path) as slide:
        assert slide.micrometres_per_pixel == pytest.approx(0.25, abs=1e-4)
        region = slide.read(0, 0, 31, 20)
    assert (region[:10] == (255, 224, 208)).all()
    assert (region[:, 30] == (255, 224, 208)).all()
    np.testing.assert_array_equal(region[10:15, :30], pixels[10:15, :, :3])
    share = pixels[15:, :, 3:] / 255
    blended = pixels[15:, :, :3] * share + np.array((255, 224, 208)) * (1 - share)
    assert np.abs(region[15:, :30] - blended).max() <= 1


def test_slides_whose_tiles_overlap_are_left_to_openslide(tmp_path, monkeypatch):
    path = tmp_path / "slide.bif"
    write_bif(path, smooth(48, 64))
    monkeypatch.setitem(sys.modules, "openslide", None)
    refused(path, "pip install 'spotbench[slides]'")
    np.testing.assert_array_equal(whole(path, reader="tifffile"), smooth(48, 64))


@pytest.mark.parametrize("reader", ["tifffile", "openslide"])
def test_a_slide_damaged_anywhere_is_refused_in_one_line_or_read(tmp_path, reader):
    if reader == "openslide":
        pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    path = tmp_path / "slide.svs"
    write_svs(path, smooth(120, 150))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    messages, outcomes = [], set()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            with open_slide(path, reader=reader) as slide:
                assert slide.overview(100).size[0] <= 100
            outcomes.add("read")
        except DataError as error:
            messages.append(str(error))
            outcomes.add("refused")
    assert all(str(path) in message and "\n" not in message for message in messages)
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_slide_is_refused(tmp_path, share):
    path = tmp_path / "slide.svs"
    write_svs(path, smooth(301, 403))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_a_slide_without_openslide_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / "slide.mrxs"
    path.write_bytes(b"x")
    refused(path, "pip install 'spotbench[slides]'")
    # What tifffile cannot read keeps its own message.
    broken = tmp_path / "slide.svs"
    broken.write_bytes(b"II*\0")
    refused(broken, "cannot be read")


def test_more_pixels_than_accepted_are_refused_by_the_header(tmp_path, monkeypatch):
    for name in ("slide.svs", "image.png"):
        path = tmp_path / name
        if name == "slide.svs":
            write_svs(path, smooth(301, 403))
        else:
            Image.fromarray(smooth(301, 403)).save(path)
        refused(path, "403 x 301", "ceiling of 100,000 px", max_pixels=100_000)
    monkeypatch.setattr("bench.data.images.whole_slide.LARGEST_PICTURE", 1000)
    refused(tmp_path / "image.png", "ceiling of 1,000 px", "convert it to a TIFF")


def test_an_unknown_reader_is_refused(tmp_path):
    refused(tmp_path / "slide.svs", "'other'", reader="other")


def test_a_tile_that_claims_to_be_larger_is_refused(tmp_path):
    path = tmp_path / "slide.svs"
    write_svs(path, smooth(301, 403), levels=1)
    content = bytearray(path.read_bytes())
    frame = content.find(b"\xff\xc0\x00\x11\x08")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    refused(path, "claims", reader="tifffile")


def test_the_hash_is_that_of_the_file_and_read_once(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    hashed = []
    module = "bench.data.images.whole_slide"

    def count(file):
        hashed.append(file)
        return f"hash of {file.read_bytes().decode()}"

    monkeypatch.setattr(f"{module}.file_hash", count)
    assert slide_hash(path) == slide_hash(path) == "sha256:hash of one"
    assert hashed == [path]
    path.write_bytes(b"other")
    assert slide_hash(path) == "sha256:hash of other"
    with pytest.raises(DataError, match="missing"):
        slide_hash(tmp_path / "absent.svs")


def test_the_hash_of_a_slide_of_several_files_covers_them_all(tmp_path, own_cache):
    path, folder = tmp_path / "slide.mrxs", tmp_path / "slide"
    path.write_bytes(b"label")
    folder.mkdir()
    (folder / "Data0000.dat").write_bytes(b"pixels")
    before = slide_hash(path)
    (folder / "Data0000.dat").write_bytes(b"other pixels")
    after = slide_hash(path)
    (folder / "Data0001.dat").write_bytes(b"")
    assert len({before, after, slide_hash(path)}) == 3
