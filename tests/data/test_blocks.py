"""Blocks: a section that is divided into contiguous parts, each a section of the card."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from bench.data.dataset import open_dataset
from bench.data.section import block_spots
from bench.errors import DataError
from bench.fetch.overview import summarize

PITCH = 40.0


def grid(columns, rows):
    """(spots, 2) pixels of a grid, row by row."""
    row, column = np.divmod(np.arange(columns * rows), columns)
    return np.stack([PITCH * column, PITCH * row], axis=1)


def blocks_of(spatial, of):
    return [block_spots(spatial, number, of) for number in range(1, of + 1)]


def test_blocks_are_stripes_along_the_longer_axis():
    wide, high = grid(8, 3), grid(3, 8)
    for spatial, axis in ((wide, 0), (high, 1)):
        blocks = blocks_of(spatial, 4)
        assert [len(block) for block in blocks] == [6, 6, 6, 6]
        ranges = [(spatial[b, axis].min() / PITCH, spatial[b, axis].max() / PITCH) for b in blocks]
        assert ranges == [(0, 1), (2, 3), (4, 5), (6, 7)]
        assert all(np.ptp(spatial[block, 1 - axis]) == 2 * PITCH for block in blocks)


def test_equal_extents_are_divided_along_x():
    assert [list(block) for block in blocks_of(grid(2, 2), 2)] == [[0, 2], [1, 3]]


def test_spots_at_one_coordinate_are_divided_in_their_order():
    spatial = np.array([[5.0, 0], [0, 0], [5, 0], [9, 0], [5, 0], [5, 0]])
    assert [list(block) for block in blocks_of(spatial, 3)] == [[0, 1], [2, 4], [3, 5]]


@settings(max_examples=60)
@given(spots=st.integers(1, 300), of=st.integers(2, 16), seed=st.integers(0, 9))
def test_every_spot_is_in_one_block_of_nearly_equal_size(spots, of, seed):
    spatial = np.random.default_rng(seed).integers(0, 20, (spots, 2)).astype(float)
    blocks = blocks_of(spatial, of)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(spots))
    sizes = [len(block) for block in blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    axis = int(np.ptp(spatial[:, 1]) > np.ptp(spatial[:, 0]))
    filled = [spatial[block, axis] for block in blocks if len(block)]
    assert all(a.max() <= b.min() for a, b in pairwise(filled))


@pytest.fixture
def divided(tmp_path, write_legacy, make_card, own_cache):
    """Card of a section of 120 spots in a grid of 20 x 6, divided as asked, and its folder."""
    x, y = np.arange(120) % 20, np.arange(120) // 20
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    counts = np.random.default_rng(0).poisson(3, (120, 9))
    write_legacy(
        tmp_path,
        pd.DataFrame(counts, index=names, columns=[f"G{i}" for i in range(9)]),
        pd.DataFrame({"x": x, "y": y, "pixel_x": 10 + 20.0 * x, "pixel_y": 10 + 20.0 * y}),
    )

    def make(*blocks, width=400, **changes):
        pixels = np.zeros((140, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        files = make_card().sections[0].files
        sections = [
            {"name": f"S1-b{n}", "patient": "P1", "files": files, "block": block}
            for n, block in enumerate(blocks, 1)
        ]
        for name, value in changes.items():
            sections[-1][name] = value
        return make_card(sections=sections, micrometres_per_pixel=None, spot_pitch_micrometres=100)

    return make


def test_a_block_has_the_spots_image_and_scale_of_its_part(divided, tmp_path):
    dataset = open_dataset(divided([1, 3], [2, 3], [3, 3]), tmp_path)
    sections = list(dataset)
    assert [section.adata.n_obs for section in sections] == [40, 40, 40]
    columns = [(s.array_xy[:, 0].min(), s.array_xy[:, 0].max()) for s in sections]
    assert columns == [(0, 6), (6, 13), (13, 19)]
    names = [name for section in sections for name in section.adata.obs_names]
    assert len(set(names)) == 120
    assert len({section.image_hash for section in sections}) == 1
    assert [s.micrometres_per_pixel for s in sections] == pytest.approx([5.0] * 3)
    assert len({section.block_of for section in sections}) == 1
    assert sections[0].block_of is not None
    overviews = summarize(dataset.card, tmp_path)
    assert [overview.spots for overview in overviews] == [40, 40, 40]
    totals = [float(np.median(np.asarray(s.adata.X.sum(axis=1)))) for s in sections]
    assert [overview.median_counts for overview in overviews] == totals


def test_blocks_are_the_same_with_and_without_the_image(divided, tmp_path):
    card = divided([1, 2], [2, 2], width=389)  # the last spot of each row lies at x = 390
    card = card.model_copy(update={"max_image_pixels": 10**6})
    with pytest.raises(DataError, match="6 of 120 spots lie outside"):
        open_dataset(card, tmp_path).section("S1-b2")
    without = open_dataset(card, tmp_path, images=False)
    assert [section.adata.n_obs for section in without] == [60, 60]


def test_a_spot_outside_the_image_is_left_out_of_its_block_alone(divided, tmp_path):
    card = divided([1, 2], [2, 2])
    path = tmp_path / "spots.tsv"
    spots = pd.read_csv(path, sep="\t")
    spots.loc[119, "pixel_x"] = 401.0
    spots.to_csv(path, sep="\t", index=False)
    sections = list(open_dataset(card, tmp_path))
    assert [section.adata.n_obs for section in sections] == [60, 59]
    assert [section.dropped_spots for section in sections] == [0, 1]


def test_the_hash_of_a_dataset_depends_on_its_blocks(divided, tmp_path):
    cards = [divided([1, 2], [2, 2]), divided([2, 2], [1, 2]), divided([1, 3], [2, 3])]
    assert len({open_dataset(card, tmp_path).hash for card in cards}) == 3


def test_too_few_spots_for_so_many_blocks_are_refused(divided, tmp_path, write_legacy):
    card = divided([1, 16], [2, 16])
    path = tmp_path / "counts.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:41]))
    spots = tmp_path / "spots.tsv"
    spots.write_text("".join(spots.read_text().splitlines(keepends=True)[:41]))
    with pytest.raises(DataError, match="40 spots cannot be divided into 16 blocks") as caught:
        open_dataset(card, tmp_path).section("S1-b1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("blocks", "changes", "match"),
    [
        ([[0, 2]], {}, "greater than or equal to 1"),
        ([[1, 1]], {}, "greater than or equal to 2"),
        ([[1, 17]], {}, "less than or equal to 16"),
        ([[3, 2]], {}, "no block 3 of 2"),
        ([[1, 2.0]], {}, "valid integer"),
        ([[True, 2]], {}, "valid integer"),
        ([[1, 2, 3]], {}, "at most 2 items"),
        (["ab"], {}, "valid tuple"),
        ([[1, 2], [1, 2]], {}, "name a block twice"),
        ([[1, 2], [1, 3]], {}, "blocks of one division"),
        ([[1, 2], None], {}, "blocks of one division"),
        ([[1, 2], [2, 2]], {"patient": "P2"}, "must be of one patient"),
    ],
)
def test_blocks_that_are_none_or_that_share_spots_are_refused(divided, blocks, changes, match):
    with pytest.raises(ValidationError, match=match):
        divided(*blocks, **changes)
