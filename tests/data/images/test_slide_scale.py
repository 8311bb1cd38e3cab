"""Micrometres per pixel of an image file."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from bench.data.images.slide_scale import ome_scale
from bench.data.images.whole_slide import open_slide
from tests.data.images.made_slides import smooth, write_bif, write_svs

PIXELS = smooth(48, 64)


def scale_of(path):
    with open_slide(path) as slide:
        return slide.micrometres_per_pixel


@pytest.mark.parametrize(
    ("value", "unit"), [(0.5, "µm"), (500, "nm"), (5e-4, "mm"), (5e-5, "cm"), (5000, "Å")]
)
def test_ome_tiffs_state_lengths_with_units(tmp_path, value, unit):
    path = tmp_path / "image.ome.tif"
    facts = {"axes": "YXS", "PhysicalSizeX": value, "PhysicalSizeY": value}
    units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata={**facts, **units})
    assert scale_of(path) == pytest.approx(0.5)


def test_micrometres_are_the_unit_of_ome_where_none_is_given(tmp_path):
    path = tmp_path / "image.ome.tif"
    facts = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=facts)
    assert scale_of(path) == pytest.approx(0.25)


def ome(attributes, before=""):
    return (
        f'{before}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>'
        f'<Pixels SizeX="64" SizeY="48" {attributes}/></Image></OME>'
    )


BOTH = 'PhysicalSizeX="{0}" PhysicalSizeY="{0}"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<OME",
        ome(""),
        ome(BOTH.format("nan")),
        ome(BOTH.format("-0.5")),
        ome(BOTH.format("1e-300")),
        ome('PhysicalSizeX="0.5" PhysicalSizeY="0.6"'),
        ome(BOTH.format("0.5") + ' PhysicalSizeXUnit="pixel" PhysicalSizeYUnit="pixel"'),
        ome(BOTH.format("0.5"), '<!DOCTYPE OME [<!ENTITY a "aaaaaaaa">]>'),
        ome(BOTH.format("0.5")).replace('SizeX="64"', 'SizeX="32"', 1),
    ],
)
def test_what_ome_does_not_tell_is_not_known(text):
    assert ome_scale(ome(BOTH.format("0.5")), (64, 48)) == 0.5
    assert ome_scale(text, (64, 48)) is None


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20_000, 20_000), "CENTIMETER", 0.5),
        ((50_800, 50_800), "INCH", 0.5),
        ((20_000, 20_000), "NONE", None),
        ((20_000, 30_000), "CENTIMETER", None),
        ((96, 96), "INCH", None),
        ((600, 600), "INCH", None),
        ((0, 0), "CENTIMETER", None),
        ((2_000_000_000, 2_000_000_000), "CENTIMETER", None),
        (None, None, None),
    ],
)
def test_resolution_tags_are_believed_unless_they_are_of_screen_or_print(
    tmp_path, resolution, unit, expected
):
    path = tmp_path / "image.tif"
    options = {} if resolution is None else {"resolution": resolution, "resolutionunit": unit}
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None, **options)
    assert scale_of(path) == (expected and pytest.approx(expected))


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(("stated", "expected"), [("0.2498", 0.2498), ("0,5", 0.5), ("", None)])
def test_aperio_slides_state_it_in_their_description(tmp_path, stated, expected, bigtiff):
    path = tmp_path / "slide.svs"
    write_svs(path, smooth(200, 300), mpp=stated, bigtiff=bigtiff)
    assert scale_of(path) == expected


@pytest.mark.parametrize(("unit", "expected"), [("um", 0.5), ("micron", 0.5), ("pixel", None)])
def test_imagej_states_a_unit(tmp_path, unit, expected):
    path = tmp_path / "image.tif"
    stack = np.ascontiguousarray(PIXELS)
    tifffile.imwrite(
        path, stack, imagej=True, photometric="rgb", resolution=(2, 2), metadata={"unit": unit}
    )
    assert scale_of(path) == (expected and pytest.approx(expected))


def test_a_philips_slide_states_millimetres(tmp_path):
    path = tmp_path / "slide.tiff"
    text = (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="x">'
        "&quot;0.000226891&quot; &quot;0.000226907&quot;</Attribute></DataObject>"
    ).replace("&quot;", '"')
    tifffile.imwrite(
        path,
        PIXELS,
        photometric="rgb",
        metadata=None,
        description=text,
        software="Philips DP v1.0",
        tile=(16, 16),
    )
    assert scale_of(path) == pytest.approx(0.2269, abs=1e-4)


def test_a_ventana_slide_states_the_resolution_of_its_scan(tmp_path):
    path = tmp_path / "slide.bif"
    write_bif(path, PIXELS)
    with open_slide(path, reader="tifffile") as slide:
        assert slide.micrometres_per_pixel == 0.2325


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(("dots", "expected"), [(50_800, 0.5), (72, None), (None, None)])
def test_pictures_state_dots_an_inch(tmp_path, suffix, dots, expected):
    path = tmp_path / f"image.{suffix}"
    options = {} if dots is None else {"dpi": (dots, dots)}
    Image.fromarray(PIXELS).save(path, **options)
    assert scale_of(path) == (expected and pytest.approx(expected, rel=1e-3))


def test_both_readers_agree_where_the_tags_tell_it(tmp_path):
    pytest.importorskip("openslide", reason="pip install 'spotbench[slides]'")
    for unit, resolution in (("CENTIMETER", 20_000), ("INCH", 96)):
        path = tmp_path / f"{unit}.tif"
        tifffile.imwrite(
            path,
            smooth(256, 256),
            photometric="rgb",
            tile=(64, 64),
            metadata=None,
            resolution=(resolution, resolution),
            resolutionunit=unit,
        )
        with open_slide(path, reader="openslide") as slide:
            other = slide.micrometres_per_pixel
        assert scale_of(path) == (other and pytest.approx(other))
        assert (other is None) == (unit == "INCH")
