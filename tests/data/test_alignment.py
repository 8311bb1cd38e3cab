"""Whether the check of spots against tissue finds what is turned, and keeps silent otherwise."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bench.data.alignment import AS_GIVEN, ORIENTATIONS, check_alignment, tissue_mask
from bench.data.dataset import open_dataset
from bench.data.images.image import thumbnail
from bench.errors import DataError
from bench.registry import dataset_card

# Spots, width and height of the image to the spots that the orientation of that name would mend.
PLANTED = {
    "mirrored left-right": lambda x, y, w, h: (w - x, y),
    "mirrored top-bottom": lambda x, y, w, h: (x, h - y),
    "rotated by 180 degrees": lambda x, y, w, h: (w - x, h - y),
    "x and y swapped": lambda x, y, w, h: (y, x),
    "rotated by 90 degrees clockwise": lambda x, y, w, h: (y, w - x),
    "rotated by 90 degrees counter-clockwise": lambda x, y, w, h: (h - y, x),
    "x and y swapped and rotated by 180 degrees": lambda x, y, w, h: (h - y, w - x),
}
WORDS = {
    "mirrored left-right": "mirrored left-right",
    "mirrored top-bottom": "mirrored top-bottom",
    "rotated by 180 degrees": "turned by 180 degrees",
    "x and y swapped": "x and y look swapped:",
    "rotated by 90 degrees clockwise": "turned by 90 degrees counter-clockwise",
    "rotated by 90 degrees counter-clockwise": "turned by 90 degrees clockwise",
    "x and y swapped and rotated by 180 degrees": "swapped and the spots turned by 180 degrees",
}


def planted(spots, size, name):
    return np.stack(PLANTED[name](spots[:, 0], spots[:, 1], *size), axis=1)


SECTIONS = ["B4", "C2", "C3", "C4", "V19D02-085_B1", "V19D02-085_C1", "V19D02-085_D1"]


@pytest.fixture(scope="module")
def real(shared_folder):
    """Spots, size of the full-resolution image and thumbnail of a real section, by its name."""
    root = shared_folder / "data"
    known = {}

    def visium(name):
        folder = root / "visium_kidney_organoid" / name / "spatial"
        scale = json.loads((folder / "scalefactors_json.json").read_text())["tissue_hires_scalef"]
        with open(folder / "tissue_positions_list.csv", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row[1] == "1"]
        spots = np.array([[float(row[5]), float(row[4])] for row in rows])
        path = folder / "tissue_hires_image.png"
        with Image.open(path) as image:
            size = tuple(edge / scale for edge in image.size)
        return spots, size, thumbnail(path, 10**8, 1000)[0]

    def legacy(name):
        section = open_dataset(dataset_card("her2st"), root / "her2st").section(name)
        small, scale = thumbnail(section.image, section.max_image_pixels, 1000)
        return section.spatial, tuple(edge / scale for edge in small.size), small

    def load(name):
        if name not in known:
            spots, size, small = visium(name) if name.startswith("V") else legacy(name)
            known[name] = spots, size, tissue_mask(small)
        return known[name]

    return load


@pytest.mark.parametrize("name", SECTIONS)
def test_a_real_section_as_it_is_gives_no_warning(real, name):
    spots, size, mask = real(name)
    found = check_alignment(spots, size, mask)
    assert found.warning is None
    assert found.best == AS_GIVEN
    assert found.share_on_tissue == found.shares[AS_GIVEN] > 0.85
    assert 0.03 < mask.mean() < 0.3


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("turned", PLANTED)
def test_a_real_section_turned_is_named_and_mended(real, name, turned):
    spots, size, mask = real(name)
    found = check_alignment(planted(spots, size, turned), size, mask)
    assert found.best == turned
    assert WORDS[turned] in found.warning
    assert "\n" not in found.warning
    assert found.shares[turned] == pytest.approx(
        check_alignment(spots, size, mask).share_on_tissue, abs=0.02
    )


def test_spots_on_the_image_of_another_section_give_a_warning(real):
    spots, size, _ = real("C2")
    other = real("C3")
    scaled = spots * (np.array(other[1]) / size)
    assert check_alignment(scaled, other[1], other[2]).warning


# Made-up slides

FRAME = (8000.0, 6000.0)


def slide(shapes, background=(235, 225, 235), seed=0):
    """A thumbnail of 800 x 600 px with tissue where `shapes` are, (left, top, right, bottom)."""
    rng = np.random.default_rng(seed)
    cells = np.asarray(
        Image.fromarray(rng.integers(0, 256, (200, 266), np.uint8)).resize((800, 600))
    )
    tissue = np.array([150, 90, 160]) + 0.3 * (cells[..., None] - 128.0)
    glass = np.array(background) + rng.normal(0, 2, (600, 800, 1))
    pixels = np.where(truth(shapes)[..., None], tissue, glass)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def truth(shapes):
    """(600, 800) bool: where the shapes are."""
    image = Image.new("1", (800, 600))
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        draw.ellipse(shape, fill=1)
    return np.asarray(image)


def spots_in(shapes):
    """Spots on a grid of 150 px, where it meets the shapes."""
    x, y = np.meshgrid(np.arange(75, FRAME[0], 150), np.arange(75, FRAME[1], 150))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    inside = np.zeros(len(grid), dtype=bool)
    for left, top, right, bottom in 10 * np.array(shapes, dtype=float):
        across = (grid[:, 0] - (left + right) / 2) / ((right - left) / 2)
        down = (grid[:, 1] - (top + bottom) / 2) / ((bottom - top) / 2)
        inside |= across**2 + down**2 < 0.9
    return grid[inside]


LOPSIDED = [(60, 60, 300, 260), (250, 380, 330, 560)]


def test_a_made_up_slide_is_told_from_all_its_turned_forms():
    mask = tissue_mask(slide(LOPSIDED))
    spots = spots_in(LOPSIDED)
    assert check_alignment(spots, FRAME, mask).warning is None
    for name in PLANTED:
        found = check_alignment(planted(spots, FRAME, name), FRAME, mask)
        assert found.best == name
        assert WORDS[name] in found.warning


@pytest.mark.parametrize(
    "shapes", [[(250, 150, 550, 450)], [(-200, -200, 1000, 800)], [(100, 150, 700, 450)]]
)
@pytest.mark.parametrize("turned", ["mirrored left-right", "rotated by 180 degrees"])
def test_of_tissue_that_looks_the_same_turned_nothing_is_said(shapes, turned):
    mask = tissue_mask(slide(shapes))
    spots = spots_in(shapes)
    for given in (spots, planted(spots, FRAME, turned)):
        found = check_alignment(given, FRAME, mask)
        assert found.best == AS_GIVEN
        assert found.warning is None


def test_tissue_that_nobody_put_spots_on_does_no_harm():
    mask = tissue_mask(slide([*LOPSIDED, (600, 60, 740, 200)]))
    assert check_alignment(spots_in(LOPSIDED), FRAME, mask).warning is None


def test_spots_off_the_tissue_whatever_is_done_to_them_are_reported():
    mask = tissue_mask(slide([(60, 60, 200, 160)]))
    found = check_alignment(spots_in([(300, 200, 500, 400)]), FRAME, mask)
    assert found.best == AS_GIVEN
    assert found.share_on_tissue == 0
    assert "only 0% of the spots lie on tissue" in found.warning
    assert "\n" not in found.warning


def test_a_scale_that_is_wrong_is_reported():
    mask = tissue_mask(slide([(500, 350, 740, 560)]))
    spots = spots_in([(500, 350, 740, 560)])
    assert check_alignment(spots, FRAME, mask).warning is None
    assert "image's scale" in check_alignment(spots / 10, FRAME, mask).warning


def test_of_a_handful_of_spots_nothing_is_said():
    mask = tissue_mask(slide(LOPSIDED))
    spots = planted(spots_in(LOPSIDED), FRAME, "mirrored left-right")
    few = spots[np.random.default_rng(0).permutation(len(spots))[:10]]
    assert check_alignment(few, FRAME, mask).best == AS_GIVEN


def test_without_tissue_to_be_seen_a_line_says_that_nothing_can_be_judged():
    for empty in (slide([]), Image.new("RGB", (300, 200), "white"), Image.new("RGB", (30, 20))):
        found = check_alignment(spots_in(LOPSIDED), FRAME, empty)
        assert np.isnan(found.share_on_tissue)
        assert set(found.shares) == set(ORIENTATIONS)
        assert "cannot be judged" in found.warning


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def test_tissue_that_fills_the_image_is_all_tissue():
    assert tissue_mask(slide([(-200, -200, 1000, 800)])).all()


def test_a_part_of_a_real_section_without_glass_is_all_tissue(shared_folder):
    section = open_dataset(dataset_card("her2st"), shared_folder / "data" / "her2st").section("C2")
    small, _ = thumbnail(section.image, section.max_image_pixels, 1000)
    inside = small.crop((520, 450, 780, 700))
    assert tissue_mask(inside).all()
    assert tissue_mask(inside.resize((1000, 960))).all()


@pytest.mark.parametrize("background", [(255, 255, 255), (235, 225, 235), (165, 163, 165)])
def test_the_mask_is_the_tissue_on_glass_of_any_shade(background):
    assert overlap(tissue_mask(slide(LOPSIDED, background)), truth(LOPSIDED)) > 0.95


def test_padding_and_the_dots_of_a_fiducial_frame_are_no_tissue():
    image = slide(LOPSIDED, (200, 195, 200))
    draw = ImageDraw.Draw(image)
    for x in range(70, 730, 14):
        for y in (30, 44, 570):
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=(60, 50, 60), width=2)
    draw.rectangle((0, 0, 800, 15), fill=(0, 0, 0))
    draw.rectangle((780, 0, 800, 600), fill=(0, 0, 0))
    draw.rectangle((0, 0, 12, 600), fill=(255, 255, 255))
    assert overlap(tissue_mask(image), truth(LOPSIDED)) > 0.95


def test_a_pink_glow_and_dust_are_no_tissue():
    pixels = np.asarray(slide(LOPSIDED)).astype(float)
    y, x = np.mgrid[:600, :800]
    glow = np.exp(-((x - 600) ** 2 + (y - 300) ** 2) / 2e4)[..., None]
    pixels -= glow * np.array([0, 35, 12])
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((500, 500, 510, 510), fill=(80, 80, 80))
    assert overlap(tissue_mask(image), truth(LOPSIDED)) > 0.95


@pytest.mark.parametrize(
    ("spots", "size", "words"),
    [
        (np.empty((0, 2)), FRAME, "at least one spot"),
        (np.array([[1.0, np.nan]]), FRAME, "finite"),
        (np.ones((3, 3)), FRAME, r"\(x, y\)"),
        (np.ones((3, 2)), (0, 10), "0 x 10 px"),
    ],
)
def test_what_cannot_be_compared_is_refused(spots, size, words):
    with pytest.raises(DataError, match=words):
        check_alignment(spots, size, np.ones((10, 10), dtype=bool))
