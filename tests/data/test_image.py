"""Images that are read in parts: pixels, damage, memory."""

import io
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from bench.data.images import tiff, tiff_level
from bench.data.images.image import image_size, open_raster, thumbnail
from bench.data.images.patches import PatchSource
from bench.data.images.tiff import TiffRaster
from bench.errors import BenchError, DataError

CEILING = 10**9


def smooth(height, width, seed=0):
    """Colours that change over tens of pixels, so that lossy compression keeps them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(path):
    with open_raster(path, CEILING) as raster:
        width, height = raster.size
        return raster.crop(0, 0, width, height)


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def assert_refused(path, *words, read=True):
    """One line that names the file, on opening it or on reading all of it."""
    with pytest.raises(DataError) as caught:
        whole(path) if read else image_size(path, CEILING)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "CMYK", "P"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_small_tiff_has_the_pixels_that_pillow_gives(tmp_path, mode, compression):
    path = tmp_path / "image.tif"
    Image.fromarray(noise(70, 90)).convert("RGB").convert(mode).save(path, compression=compression)
    np.testing.assert_array_equal(whole(path), by_pillow(path))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_luminance_and_chroma_become_rgb_as_by_pillow_or_libtiff(tmp_path, compression):
    path = tmp_path / "image.tif"
    Image.fromarray(noise(70, 90)).convert("YCbCr").save(path, compression=compression)
    # Pillow leaves the conversion of compressed files to libtiff, which rounds otherwise.
    assert np.abs(whole(path).astype(int) - by_pillow(path)).max() <= (compression is not None)


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr"])
def test_jpeg_in_a_tiff_has_the_pixels_that_pillow_gives(tmp_path, mode):
    path = tmp_path / "image.tif"
    Image.fromarray(smooth(100, 130)).convert(mode).save(path, compression="jpeg", quality=90)
    np.testing.assert_array_equal(whole(path), by_pillow(path))


TILED = [
    {},
    {"tile": (32, 48)},
    {"tile": (32, 48), "compression": "zlib"},
    {"tile": (32, 48), "compression": "zlib", "predictor": True},
    {"tile": (32, 48), "compression": "lzw"},
    {"tile": (32, 48), "compression": "zstd"},
    {"rowsperstrip": 7, "compression": "zlib"},
    {"rowsperstrip": 7},
    {"tile": (32, 48), "bigtiff": True},
    {"tile": (32, 48), "byteorder": ">", "compression": "zlib"},
    {"byteorder": ">", "bigtiff": True},
]


@pytest.mark.parametrize("options", TILED, ids=str)
@pytest.mark.parametrize("planar", [False, True], ids=["contiguous", "planar"])
def test_every_layout_gives_the_pixels_that_were_written(tmp_path, options, planar):
    path = tmp_path / "image.tif"
    pixels = noise(131, 155)
    stored = np.moveaxis(pixels, -1, 0) if planar else pixels
    tifffile.imwrite(
        path,
        stored,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        **options,
    )
    np.testing.assert_array_equal(whole(path), pixels)


@pytest.mark.parametrize("options", [{}, {"tile": (32, 32), "compression": "zlib"}], ids=str)
@pytest.mark.parametrize("ome", [False, True])
def test_three_grey_pages_of_channels_are_one_colour_image(tmp_path, options, ome):
    path = tmp_path / ("image.ome.tif" if ome else "image.tif")
    pixels = noise(70, 90)
    tifffile.imwrite(
        path,
        np.ascontiguousarray(np.moveaxis(pixels, -1, 0)),
        photometric="minisblack",
        metadata={"axes": "CYX"},
        **options,
    )
    np.testing.assert_array_equal(whole(path), pixels)


def test_samples_of_sixteen_bits_are_scaled_to_eight(tmp_path):
    path = tmp_path / "image.tif"
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    values[0, 0] = 0, 65535, 257 * 100
    tifffile.imwrite(path, values, photometric="rgb", tile=(16, 16), compression="zlib")
    found = whole(path)
    assert found[0, 0].tolist() == [0, 255, 100]
    np.testing.assert_array_equal(found, np.floor(values / 257 + 0.5).astype(np.uint8))


def test_samples_of_sixteen_bits_in_the_other_byte_order_are_mapped(tmp_path):
    path = tmp_path / "image.tif"
    values = noise(40, 50).astype(np.uint16) * 257
    tifffile.imwrite(path, values, photometric="rgb", byteorder=">")
    np.testing.assert_array_equal(whole(path), values // 257)


def test_white_is_zero_is_turned_round(tmp_path):
    path = tmp_path / "image.tif"
    grey = noise(40, 50)[..., 0]
    tifffile.imwrite(path, grey, photometric="miniswhite")
    np.testing.assert_array_equal(whole(path), np.repeat(255 - grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "jpegxl"])
def test_lossy_tiles_come_close_to_what_was_written(tmp_path, compression):
    path = tmp_path / "image.tif"
    pixels = smooth(300, 420)
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(128, 128),
        compression=compression,
        compressionargs={"level": 95} if compression != "jpegxl" else {"distance": 0.5},
    )
    assert np.abs(whole(path).astype(int) - pixels).mean() < 3


def test_subsampled_jpeg_tiles_are_those_of_pillow(tmp_path):
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path,
        smooth(300, 420),
        photometric="rgb",
        tile=(128, 128),
        compression="jpeg",
        compressionargs={"level": 80},
    )
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.photometric.name == "YCBCR"
    assert np.abs(whole(path).astype(int) - by_pillow(path)).max() <= 1


@pytest.mark.parametrize("options", [{}, {"tile": (32, 48), "compression": "zlib"}], ids=str)
def test_a_part_is_that_of_a_padded_array(tmp_path, options):
    path = tmp_path / "image.tif"
    pixels = noise(150, 170)
    tifffile.imwrite(path, pixels, photometric="rgb", **options)
    padded = np.pad(pixels, ((300, 300), (300, 300), (0, 0)))
    rng = np.random.default_rng(1)
    with open_raster(path, CEILING) as raster:
        for left, top in rng.integers(-250, 250, (60, 2)).tolist():
            width, height = rng.integers(1, 220, 2).tolist()
            part = raster.crop(left, top, width, height)
            wanted = padded[top + 300 : top + 300 + height, left + 300 : left + 300 + width]
            np.testing.assert_array_equal(part, wanted)


def pyramid(path, pixels, **options):
    """A pyramid whose smaller levels have colours of their own, to tell which of them is read."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, photometric="rgb", subifds=2, tile=(64, 64), **options)
        for divisor, colour in ((2, (10, 200, 30)), (4, (200, 10, 90))):
            level = np.empty((pixels.shape[0] // divisor, pixels.shape[1] // divisor, 3), np.uint8)
            level[:] = colour
            writer.write(level, photometric="rgb", subfiletype=1, tile=(64, 64), **options)


def test_the_image_is_the_largest_level_and_a_thumbnail_comes_from_the_smallest(tmp_path):
    path = tmp_path / "image.tif"
    pixels = noise(1600, 1280)
    pyramid(path, pixels, compression="zlib")
    assert image_size(path, CEILING) == (1280, 1600)
    np.testing.assert_array_equal(whole(path), pixels)
    small, scale = thumbnail(path, CEILING, 150)
    assert small.size == (120, 150)
    assert scale == 120 / 1280
    assert (np.asarray(small) == (200, 10, 90)).all()
    middle, _ = thumbnail(path, CEILING, 500)
    assert middle.size == (400, 500)
    assert (np.asarray(middle) == (10, 200, 30)).all()
    assert np.asarray(thumbnail(path, CEILING, 1000)[0]).std() > 10  # of the noise itself


def test_a_thumbnail_in_front_of_the_slide_is_not_taken_for_it(tmp_path):
    path = tmp_path / "image.tif"
    pixels = noise(300, 200)
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(30, 20, 1), photometric="rgb", metadata=None)
        writer.write(pixels, photometric="rgb", tile=(64, 64), metadata=None)
        writer.write(noise(60, 50, 2), photometric="rgb", metadata=None)
    np.testing.assert_array_equal(whole(path), pixels)


def test_of_an_aperio_slide_the_baseline_is_read_and_its_small_images_are_not(tmp_path):
    path = tmp_path / "slide.svs"
    pixels = noise(640, 520)
    about = "Aperio Image Library v11.2.1\n640x520 (256x256) JPEG/RGB|AppMag = 20|MPP = 0.5"
    options = {"photometric": "rgb", "metadata": None}
    small = np.full((160, 130, 3), 77, np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, tile=(128, 128), compression="zlib", description=about, **options)
        writer.write(noise(96, 78, 1), rowsperstrip=16, description=about, **options)
        writer.write(small, tile=(128, 128), compression="zlib", description=about, **options)
        writer.write(noise(900, 900, 2), rowsperstrip=16, subfiletype=1, **options)
        writer.write(noise(800, 800, 3), rowsperstrip=16, subfiletype=9, **options)
    with tifffile.TiffFile(path) as file:
        assert [x.name for x in file.series] == ["Baseline", "Thumbnail", "Label", "Macro"]
    np.testing.assert_array_equal(whole(path), pixels)
    assert (np.asarray(thumbnail(path, CEILING, 100)[0]) == 77).all()


@pytest.mark.parametrize("divisors", [(2, 4), (4, 16)])
def test_an_ome_tiff_with_levels_is_read_at_its_largest(tmp_path, divisors):
    path = tmp_path / "slide.ome.tif"
    pixels = noise(640, 512)
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
        writer.write(pixels, subifds=2, metadata={"axes": "YXS"}, **options)
        for divisor in divisors:
            level = np.full((640 // divisor, 512 // divisor, 3), 10 * divisor, np.uint8)
            writer.write(level, subfiletype=1, **options)
    np.testing.assert_array_equal(whole(path), pixels)
    assert (np.asarray(thumbnail(path, CEILING, 40)[0]) == 10 * divisors[1]).all()


def test_an_ome_tiff_that_says_it_goes_on_in_another_file_does_not_open_it(tmp_path, monkeypatch):
    pixels = np.moveaxis(noise(70, 90), -1, 0)
    about = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
    <Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="90"
    SizeY="70" SizeC="3" SizeZ="1" SizeT="1">{}</Pixels></Image></OME>"""
    data = "".join(
        f"""<TiffData FirstC="{c}" IFD="0"><UUID FileName="{name}">urn:uuid:0000000{c}-0000-0000-
        0000-000000000000</UUID></TiffData>""".replace("\n        ", "")
        for c, name in enumerate(["first.ome.tif", "other.ome.tif", "other.ome.tif"])
    )
    path = tmp_path / "first.ome.tif"
    tifffile.imwrite(path, pixels[0], description=about.format(data), metadata=None)
    tifffile.imwrite(tmp_path / "other.ome.tif", pixels[1], metadata=None)
    opened = []
    original = tifffile.FileHandle.open

    def recording(self):
        original(self)
        opened.append(self.name)

    monkeypatch.setattr(tifffile.FileHandle, "open", recording)
    # What is left is the one page of its own.
    np.testing.assert_array_equal(whole(path), np.repeat(pixels[0][..., None], 3, axis=-1))
    assert set(opened) == {"first.ome.tif"}
    with tifffile.TiffFile(path) as file:
        assert file.series
    assert "other.ome.tif" in opened, "the file would have led there"


def test_the_format_is_told_by_the_content(tmp_path):
    pixels = noise(40, 50)
    named = {
        "a.jpg": lambda path: tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16)),
        "b.ndpi": lambda path: tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16)),
        "c.tif": lambda path: Image.fromarray(pixels).save(path, format="PNG"),
        "d": lambda path: Image.fromarray(pixels).save(path, format="TIFF"),
    }
    for name, write in named.items():
        write(tmp_path / name)
        np.testing.assert_array_equal(whole(tmp_path / name), pixels)


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_thumbnail_is_averaged_in_pieces(tmp_path, tile, monkeypatch):
    path = tmp_path / "image.tif"
    pixels = smooth(900, 1300)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=tile, compression="zlib")
    monkeypatch.setattr(tiff, "_PIECE_EDGE", 100)
    small, scale = thumbnail(path, CEILING, 130)
    assert small.size == (130, 90)
    assert scale == 0.1
    wanted = pixels.reshape(90, 10, 130, 10, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(small) - wanted).max() <= 1


def test_a_thumbnail_no_larger_than_asked_keeps_the_pixels(tmp_path):
    path = tmp_path / "image.tif"
    pixels = noise(70, 90)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16))
    small, scale = thumbnail(path, CEILING, 200)
    assert scale == 1
    np.testing.assert_array_equal(np.asarray(small), pixels)


def test_a_thumbnail_is_kept_under_the_hash_of_the_image(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, smooth(300, 400), photometric="rgb", tile=(64, 64))
    first, scale = thumbnail(path, CEILING, 100, "sha256:a")
    (kept,) = (own_cache / "thumbnails").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(TiffRaster, "thumbnail", None)
        again, same_scale = thumbnail(path, CEILING, 100, "sha256:a")
    assert same_scale == scale == 0.25
    np.testing.assert_array_equal(np.asarray(first), np.asarray(again))
    kept.write_bytes(kept.read_bytes()[:100])
    mended, _ = thumbnail(path, CEILING, 100, "sha256:a")
    np.testing.assert_array_equal(np.asarray(first), np.asarray(mended))


def decoded_tiles(monkeypatch):
    """Numbers of the tiles that are decoded from now on, in order."""
    found = []
    original = tiff_level.Level._decoded

    def counting(self, page, shift, tile, tall, wide):
        found.append(tile)
        return original(self, page, shift, tile, tall, wide)

    monkeypatch.setattr(tiff_level.Level, "_decoded", counting)
    return found


def test_no_tile_is_decoded_before_it_is_needed_and_none_twice(tmp_path, monkeypatch):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(640, 640), photometric="rgb", tile=(64, 64), compression="zlib")
    found = decoded_tiles(monkeypatch)
    with open_raster(path, CEILING) as raster:
        assert found == []
        raster.crop(70, 10, 50, 50)
        assert found == [1]
        raster.crop(60, 60, 10, 10)
        assert found == [1, 0, 10, 11]


def test_tiles_of_a_slide_larger_than_the_cache_are_decoded_a_few_times(
    tmp_path, own_cache, monkeypatch
):
    path = tmp_path / "image.tif"
    pixels = noise(1024, 1024)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    monkeypatch.setattr(tiff, "CACHED_BYTES", 6 * 64 * 64 * 3)
    found = decoded_tiles(monkeypatch)
    x, y = np.meshgrid(np.arange(40, 1000, 40), np.arange(40, 1000, 40))
    centres = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    shuffled = np.random.default_rng(0).permutation(centres)
    patches = PatchSource(path, "sha256:x", CEILING, shuffled).cut(48)
    for patch, (x, y) in zip(patches, shuffled.astype(int), strict=True):
        np.testing.assert_array_equal(patch, pixels[y - 24 : y + 24, x - 24 : x + 24])
    assert set(found) == set(range(256))
    assert len(found) < 3 * 256


def test_patches_of_a_tiff_are_those_of_the_same_image_as_png(tmp_path, own_cache):
    pixels = noise(500, 400)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    centres = np.random.default_rng(0).uniform(-5, 500, (40, 2))
    for size, edge in ((31, None), (100, 25), (64, 100)):
        first, second = (
            PatchSource(tmp_path / name, name, CEILING, centres).cut(size, edge)
            for name in ("a.tif", "a.png")
        )
        np.testing.assert_array_equal(first, second)


# Damage


def valid(**options):
    stream = io.BytesIO()
    settings = {"tile": (64, 64), "compression": "zlib", "metadata": None, **options}
    tifffile.imwrite(stream, smooth(300, 400), photometric="rgb", **settings)
    return stream.getvalue()


def with_tag(content, code, value):
    """The file with the first value of a tag of the first page replaced."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tag = file.pages.first.tags[code]
        fmt = {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]
        where = tag.valueoffset
    changed = bytearray(content)
    changed[where : where + struct.calcsize(fmt)] = struct.pack(fmt, value)
    return bytes(changed)


WIDTH, HEIGHT, OFFSETS, COUNTS, TILE_WIDTH, TILE_HEIGHT = 256, 257, 324, 325, 322, 323


@pytest.fixture
def damaged(tmp_path):
    def write(content):
        path = tmp_path / "damaged.tif"
        path.write_bytes(content)
        return path

    return write


def test_a_header_that_claims_a_giant_image_is_refused_by_it(damaged):
    path = damaged(with_tag(with_tag(valid(), WIDTH, 60_000), HEIGHT, 60_000))
    assert_refused(path, "60000 x 60000 px exceeds the card's ceiling", read=False)


def test_a_header_that_claims_more_than_the_tiles_hold_is_refused(damaged):
    assert_refused(damaged(with_tag(valid(), WIDTH, 4000)), "tiles", read=False)


@pytest.mark.parametrize("code", [OFFSETS, COUNTS])
def test_a_tile_beyond_the_file_is_refused_when_it_is_opened(damaged, code):
    path = damaged(with_tag(valid(), code, 2**31))
    assert_refused(path, "truncated", "fetch the file again", read=False)


def test_a_file_that_ends_too_early_is_refused_when_it_is_opened(damaged):
    content = valid()
    assert_refused(damaged(content[: len(content) // 2]), read=False)
    plain = valid(compression=None, tile=None)
    assert_refused(damaged(plain[: len(plain) // 2]), "truncated", read=False)


def test_a_tile_that_cannot_be_decoded_is_refused_when_it_is_read(damaged):
    content = bytearray(valid())
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        start = file.pages.first.dataoffsets[7]
    content[start : start + 40] = bytes(40)
    path = damaged(bytes(content))
    assert image_size(path, CEILING) == (400, 300)
    assert_refused(path, "image cannot be read")


@pytest.mark.parametrize("where", ["itself", "nowhere"])
def test_pages_that_lead_in_a_circle_or_nowhere_do_not_trap_the_reader(damaged, where):
    content = bytearray(valid())
    first = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[first : first + 2])[0]
    link = first + 2 + 12 * entries
    content[link : link + 4] = struct.pack("<I", first if where == "itself" else 2**32 - 10)
    path = damaged(bytes(content))
    np.testing.assert_array_equal(whole(path), smooth(300, 400))


@pytest.mark.parametrize("marker", [b"\xff\xc0", b"\xff\xc2"])
def test_a_jpeg_tile_that_claims_to_be_larger_is_refused_before_it_is_decoded(damaged, marker):
    content = bytearray(valid(compression="jpeg"))
    place = content.find(b"\xff\xc0")
    content[place : place + 2] = marker
    content[place + 5 : place + 9] = struct.pack(">HH", 60_000, 60_000)
    assert_refused(damaged(bytes(content)), "claims 60000 x 60000 px")


def test_a_jpeg_2000_tile_that_claims_to_be_larger_is_refused(damaged):
    content = bytearray(valid(compression="jpeg2000"))
    place = content.find(b"\xff\x4f\xff\x51")
    content[place + 8 : place + 16] = struct.pack(">II", 60_000, 60_000)
    assert_refused(damaged(bytes(content)), "claims 60000 x 60000 px")


def test_tiles_of_another_size_than_they_are_do_not_exhaust_the_memory(damaged):
    path = damaged(with_tag(with_tag(valid(), TILE_WIDTH, 2**15), TILE_HEIGHT, 2**15))
    assert_refused(path, "too large to decode one at a time", "tiles of 256 x 256 px", read=False)


def test_one_strip_that_is_the_whole_image_is_read_or_refused_by_its_size(tmp_path, monkeypatch):
    path = tmp_path / "strip.tif"
    pixels = smooth(300, 400)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=300, compression="zlib")
    np.testing.assert_array_equal(whole(path), pixels)
    monkeypatch.setattr(tiff_level, "LARGEST_TILE", 300 * 400 * 3 - 1)
    assert_refused(path, "strips of 400 x 300 px", "convert it to a TIFF with tiles", read=False)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=300)
    np.testing.assert_array_equal(whole(path), pixels)


@pytest.mark.parametrize(
    ("values", "photometric", "words"),
    [
        (np.zeros((40, 50, 3), np.float32), "rgb", "float32"),
        (np.zeros((40, 50), np.uint32), "minisblack", "uint32"),
        (np.zeros((40, 50, 3), np.int16), "rgb", "int16"),
        (np.zeros((5, 40, 50), np.uint8), "minisblack", "5 channels"),
        (np.zeros((40, 50, 3), np.uint8), "cielab", "CIELAB"),
    ],
)
def test_samples_that_are_no_colours_are_refused(tmp_path, values, photometric, words):
    path = tmp_path / "image.ome.tif"
    axes = "CYX" if len(values) == 5 else "YXS" if values.ndim == 3 else "YX"
    tifffile.imwrite(path, values, photometric=photometric, metadata={"axes": axes})
    assert_refused(path, words, "convert it to", read=False)


def test_a_file_that_asks_to_be_turned_is_refused(tmp_path):
    path = tmp_path / "image.tif"
    extra = [(274, "H", 1, 6, True)]
    tifffile.imwrite(path, smooth(40, 50), photometric="rgb", extratags=extra)
    assert_refused(path, "orientation 6", "save it upright", read=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": None},
        {"compression": None, "tile": None},
        {"compression": "jpeg"},
        {"compression": "lzw", "tile": None, "rowsperstrip": 20},
        {"compression": "jpeg2000"},
    ],
    ids=str,
)
@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_tiff_damaged_anywhere_is_refused_in_one_line_or_read(damaged, options, bigtiff, capfd):
    content = valid(bigtiff=bigtiff, **options)
    rng = np.random.default_rng(2)
    refusals = []
    for attempt in range(80):
        changed = bytearray(content)
        # Half of the damage goes where the tags are.
        reach = len(changed) if attempt % 2 else min(400, len(changed))
        for place in rng.integers(4, reach, 1 + attempt % 5):
            changed[place] = rng.integers(256)
        if attempt % 8 == 0:
            del changed[rng.integers(len(changed)) :]
        path = damaged(bytes(changed))
        try:
            with open_raster(path, 10**6) as raster:
                raster.crop(0, 0, 400, 300)
                raster.thumbnail(50)
        except BenchError as error:
            refusals.append(str(error))
        except Exception as error:
            raise AssertionError(f"attempt {attempt} gave {error!r}") from error
    assert len(refusals) >= 10
    assert all("damaged.tif" in message and "\n" not in message for message in refusals)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II+\0\x08\0\0\0", b"MM\0*" + bytes(500)])
def test_what_is_no_tiff_beyond_its_first_bytes_is_refused(damaged, content):
    assert_refused(damaged(content), "image cannot be read", read=False)


def test_a_missing_image_is_refused(tmp_path):
    assert_refused(tmp_path / "absent.tif", "image is missing", read=False)


# Size


PATTERN = 64


def pattern(top, left, height, width):
    """Squares of 64 px whose colour names their place: (height, width, 3) uint8."""
    row = (np.arange(top, top + height) // PATTERN)[:, None]
    column = (np.arange(left, left + width) // PATTERN)[None, :]
    red = np.broadcast_to(row * 37 % 256, (height, width))
    green = np.broadcast_to(column * 53 % 256, (height, width))
    return np.stack([red, green, (red + 3 * green) % 256], axis=-1).astype(np.uint8)


def write_pattern(path, side, tile=512):
    def tiles():
        for top in range(0, side, tile):
            for left in range(0, side, tile):
                yield pattern(top, left, tile, tile)

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(tile, tile),
        compression="zlib",
        compressionargs={"level": 1},
        bigtiff=True,
    )


MEASURED = """
import json, sys, time
from pathlib import Path
import numpy as np
from bench.data.images.patches import PatchSource

path, side, spots = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
centres = np.random.default_rng(0).uniform(0, side, (spots, 2))
started = time.perf_counter()
patches = PatchSource(path, f"sha256:{path}", side * side, centres).cut(224)
seconds = time.perf_counter() - started
# Not getrusage, which counts what the parent held before this program began.
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
np.save(sys.argv[4], centres)
np.save(sys.argv[5], patches)
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
"""


def cut_in_a_process(folder, path, side, spots):
    """Centres, patches, and what it took to cut them in a process of its own."""
    names = [folder / "centres.npy", folder / "patches.npy"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, path, str(side), str(spots), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    centres, patches = (np.load(name, mmap_mode="r") for name in names)
    return centres, patches, json.loads(done.stdout)


def assert_pattern(centres, patches, side):
    assert patches.shape == (len(centres), 224, 224, 3)
    for (x, y), patch in zip(np.floor(centres).astype(int), patches, strict=True):
        left, top = x - 112, y - 112
        wanted = pattern(top, left, 224, 224)
        wanted[: max(0, -top)] = 0
        wanted[:, : max(0, -left)] = 0
        wanted[max(0, side - top) :] = 0
        wanted[:, max(0, side - left) :] = 0
        np.testing.assert_array_equal(patch, wanted)


@pytest.mark.slow
def test_patches_of_a_large_slide_take_little_memory(tmp_path, own_cache):
    side = 8000
    write_pattern(tmp_path / "slide.tif", side)
    centres, patches, cost = cut_in_a_process(tmp_path, tmp_path / "slide.tif", side, 300)
    assert_pattern(centres, patches, side)
    assert cost["peak_bytes"] < 700e6


@pytest.mark.slow
def test_patches_of_a_whole_slide_are_cut_within_memory(tmp_path, own_cache, record_property):
    side = 40_000
    write_pattern(tmp_path / "slide.tif", side)
    centres, patches, cost = cut_in_a_process(tmp_path, tmp_path / "slide.tif", side, 3000)
    assert_pattern(centres, patches, side)
    record_property("seconds", cost["seconds"])
    record_property("peak_bytes", cost["peak_bytes"])
    print(f"3000 patches in {cost['seconds']:.1f} s, peak {cost['peak_bytes'] / 1e6:.0f} MB")  # noqa: T201
    assert cost["peak_bytes"] < 1.5e9


@pytest.mark.slow
def test_an_uncompressed_slide_is_mapped_and_not_held(tmp_path, own_cache):
    side = 8000
    path = tmp_path / "slide.tif"
    mapped = tifffile.memmap(path, shape=(side, side, 3), dtype=np.uint8, photometric="rgb")
    for top in range(0, side, 1000):
        mapped[top : top + 1000] = pattern(top, 0, 1000, side)
    mapped.flush()
    del mapped
    centres, patches, cost = cut_in_a_process(tmp_path, path, side, 300)
    assert_pattern(centres, patches, side)
    assert cost["peak_bytes"] < 700e6
