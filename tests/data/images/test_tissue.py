"""Tissue on an overview, and the grid of tiles over it."""

import numpy as np
import pytest
from PIL import Image

from bench.data.images.tissue import TissueMask, find_tissue, tissue_grid, tissue_pixels
from bench.data.images.whole_slide import open_slide
from bench.errors import DataError
from tests.data.images.made_slides import tissue_like

PLACE = {"left": 80, "top": 60, "right": 280, "bottom": 200}


def mask_of(rows, columns, true, *, times=1, where="slide.svs"):
    mask = np.zeros((rows, columns), dtype=bool)
    mask[true] = True
    overview = Image.new("RGB", (columns, rows), (240, 240, 240))
    return TissueMask(mask, overview, columns * times, rows * times, where)


def written(tmp_path, pixels):
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return path


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_tissue_is_found_and_glass_is_not():
    wanted = np.zeros((300, 400), dtype=bool)
    wanted[60:200, 80:280] = True
    assert overlap(tissue_pixels(tissue_like(300, 400, **PLACE)), wanted) > 0.99


def test_pale_tissue_beside_dark_tissue_is_kept():
    pixels = tissue_like(300, 400, **PLACE)
    pixels[60:200, 80:180] = (235, 195, 220)
    pixels[60:200, 180:280] = (90, 30, 110)
    mask = tissue_pixels(pixels)
    assert mask[70:190, 90:170].all()
    assert mask[70:190, 190:270].all()
    assert not mask[:50].any()


def test_specks_and_holes_are_removed_and_larger_parts_kept():
    pixels = tissue_like(1000, 1200, left=200, top=200, right=800, bottom=700)
    glass = pixels[0, 0]
    pixels[300:308, 300:308] = glass  # below the median's reach and the smallest hole
    pixels[400:500, 400:500] = glass
    pixels[900:908, 900:908] = (200, 120, 180)
    pixels[900:940, 1000:1040] = (200, 120, 180)
    mask = tissue_pixels(pixels)
    assert mask[295:315, 295:315].all()
    assert not mask[410:490, 410:490].any()
    assert not mask[890:920, 890:920].any()
    assert mask[910:930, 1010:1030].all()


@pytest.mark.parametrize("colour", [(0, 170, 60), (0, 100, 210)])
def test_marks_of_green_and_blue_pens_are_no_tissue(colour):
    pixels = tissue_like(300, 400, **PLACE)
    pixels[220:290, 300:390] = colour
    mask = tissue_pixels(pixels)
    assert mask[70:190, 90:270].all()
    assert not mask[225:285, 305:385].any()


def test_borders_that_were_not_scanned_are_no_tissue():
    pixels = tissue_like(300, 400, **PLACE)
    rng = np.random.default_rng(0)
    pixels[:, 350:] = rng.integers(0, 12, (300, 50, 3))
    mask = tissue_pixels(pixels)
    assert mask[70:190, 90:270].all()
    assert not mask[:, 350:].any()


@pytest.mark.parametrize("glass", [(242, 242, 242), (255, 255, 255), (238, 232, 224), (0, 0, 0)])
@pytest.mark.parametrize("noise", [0, 3])
def test_a_blank_slide_has_no_tissue(tmp_path, glass, noise):
    rng = np.random.default_rng(0)
    pixels = np.array(glass) + rng.integers(-noise, noise + 1, (300, 400, 1))
    path = written(tmp_path, np.clip(pixels, 0, 255).astype(np.uint8))
    with open_slide(path) as slide, pytest.raises(DataError, match="there is no tissue") as caught:
        find_tissue(slide)
    assert str(path) in str(caught.value)


def test_an_image_of_nothing_but_tissue_is_all_tissue():
    rng = np.random.default_rng(0)
    pixels = (np.array((190, 110, 170)) + rng.integers(-3, 4, (200, 200, 1))).astype(np.uint8)
    assert tissue_pixels(pixels).all()


def test_the_mask_can_be_seen_over_the_overview(tmp_path):
    path = written(tmp_path, tissue_like(300, 400, **PLACE))
    with open_slide(path) as slide:
        found = find_tissue(slide, 200)
    assert found.mask.shape == (150, 200)
    assert (found.width, found.height) == (400, 300)
    assert found.share == pytest.approx(200 * 140 / 120_000, rel=0.02)
    found.write_picture(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        shown = np.asarray(picture)
    np.testing.assert_array_equal(shown[60, 80], np.asarray(found.overview)[60, 80])
    assert (shown[10, 10] > np.asarray(found.overview)[10, 10]).all()
    assert (shown == (0, 160, 0)).all(axis=-1).sum() == pytest.approx(2 * (100 + 70), rel=0.05)


def test_tiles_stand_where_the_pitch_puts_them():
    # A slide of 400 x 300 px at 0.5 micrometres: 10 x 8 tiles of 20 micrometres.
    mask = mask_of(30, 40, np.s_[10:20, 12:28], times=10)
    grid = tissue_grid(mask, 20, 0.5)
    assert grid.pitch_pixels == 40
    covered = {2: 0.5, 3: 1.0, 4: 1.0}  # rows 8 to 12, 12 to 16 and 16 to 20 of the mask
    wanted = [(column, row) for row in (2, 3, 4) for column in (3, 4, 5, 6)]
    assert [tuple(place) for place in grid.array_xy.tolist()] == wanted
    assert grid.array_xy.dtype == np.int64
    np.testing.assert_array_equal(grid.spatial, (np.array(wanted) + 0.5) * 40)
    np.testing.assert_allclose(grid.tissue, [covered[row] for _, row in wanted], atol=1e-6)
    assert grid.names[0] == "r0002c0003"
    assert len(set(grid.names)) == len(grid) == 12
    fuller = tissue_grid(mask, 20, 0.5, least_tissue=1.0)
    assert {row for _, row in fuller.array_xy.tolist()} == {3, 4}


def test_the_share_of_tissue_is_that_of_an_exact_sum():
    rng = np.random.default_rng(0)
    true = rng.random((30, 40)) < 0.4
    mask = mask_of(30, 40, true, times=7)
    left, top = rng.uniform(0, 180, 50), rng.uniform(0, 110, 50)
    edge = 53.3
    fine = np.repeat(np.repeat(true, 70, axis=0), 70, axis=1)  # tenths of pixels
    for x, y, share in zip(left, top, mask.share_in(left, top, edge), strict=True):
        x0, y0, wide = round(10 * x), round(10 * y), round(10 * edge)
        assert share == pytest.approx(fine[y0 : y0 + wide, x0 : x0 + wide].mean(), abs=0.01)


def test_a_tile_whose_centre_lies_outside_is_left_out():
    mask = mask_of(30, 40, np.s_[:, :], times=10)
    grid = tissue_grid(mask, 70, 1.0, least_tissue=0.05)
    assert grid.spatial.max(axis=0).tolist() == [385, 245]
    assert (grid.spatial < (400, 300)).all()


@pytest.mark.parametrize(
    ("pitch", "scale", "least", "said"),
    [
        (20, None, 0.5, "do not tell the scale"),
        (20, float("nan"), 0.5, "no scale"),
        (20, 0.0, 0.5, "no scale"),
        (0.2, 0.5, 0.5, "finer than the slide's pixels"),
        (-5, 0.5, 0.5, "finer than the slide's pixels"),
        (float("nan"), 0.5, 0.5, "finer than the slide's pixels"),
        (20, 0.5, 0.0, "share of tissue"),
        (20, 0.5, 1.5, "share of tissue"),
        (100, 0.5, 0.9, "0 tiles of 100 micrometres hold 90% of tissue, at least 3 are needed"),
    ],
)
def test_grids_that_cannot_be_made_are_refused(pitch, scale, least, said):
    mask = mask_of(30, 40, np.s_[10:20, 12:28], times=10)
    with pytest.raises(DataError, match=said) as caught:
        tissue_grid(mask, pitch, scale, least)
    assert str(caught.value).startswith("slide.svs: ")


def test_a_grid_of_too_many_tiles_is_refused_before_it_is_made():
    mask = mask_of(30, 40, np.s_[:, :], times=10_000)
    with pytest.raises(DataError, match="a grid of 1 micrometres has 120,000,000,000 tiles"):
        tissue_grid(mask, 1, 1.0)
