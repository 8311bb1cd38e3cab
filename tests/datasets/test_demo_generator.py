"""The demo dataset is what it says: reproducible, and with the right answers it promises."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.datasets import demo
from bench.datasets.demo import CELL_TYPES, GENES, SimulatedSection

PREFIXES = ("TUM", "STR", "IMM", "ADI", "DUC")


@pytest.fixture(scope="module")
def sections() -> list[SimulatedSection]:
    return demo.simulate(0)


@pytest.fixture(scope="module")
def written(
    sections: list[SimulatedSection], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SimulatedSection, list[Path]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, sections[0], demo.write(sections[0], folder)


def _family(prefix: str) -> np.ndarray:
    return np.array([gene.startswith(prefix) for gene in GENES])


def _log_share(values: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))


def _arrays(section: SimulatedSection) -> dict[str, np.ndarray]:
    return {key: value for key, value in vars(section).items() if isinstance(value, np.ndarray)}


def _position_correlation(one: SimulatedSection, other: SimulatedSection) -> float:
    """Mean over genes of the correlation of the noiseless expression at common positions."""
    index_of = {tuple(xy): index for index, xy in enumerate(other.array_xy)}
    pairs = np.array(
        [
            (index, index_of[tuple(xy)])
            for index, xy in enumerate(one.array_xy)
            if tuple(xy) in index_of
        ]
    )
    a = _log_share(one.expectation)[pairs[:, 0]]
    b = _log_share(other.expectation)[pairs[:, 1]]
    a, b = (values - values.mean(axis=0) for values in (a, b))
    return float(((a * b).mean(axis=0) / (a.std(axis=0) * b.std(axis=0))).mean())


def test_the_genes_are_named_once_and_by_program() -> None:
    assert len(GENES) == len(set(GENES)) == 240
    assert {gene.rstrip("0123456789") for gene in GENES} == {*PREFIXES, "HK"}


def test_there_are_two_sections_of_each_of_three_patients(
    sections: list[SimulatedSection],
) -> None:
    assert [section.name for section in sections] == ["P1a", "P1b", "P2a", "P2b", "P3a", "P3b"]
    assert [section.patient for section in sections] == ["P1", "P1", "P2", "P2", "P3", "P3"]


def test_arrays_have_the_promised_shapes_and_kinds(sections: list[SimulatedSection]) -> None:
    for section in sections:
        spots = len(section.array_xy)
        assert 130 <= spots <= 170
        assert section.image.dtype == np.uint8
        assert section.image.shape[2:] == (3,)
        assert section.array_xy.shape == section.pixel_xy.shape == (spots, 2)
        assert section.counts.shape == section.expectation.shape == (spots, len(GENES))
        assert section.array_xy.dtype.kind == section.counts.dtype.kind == "i"
        assert section.counts.min() >= 0
        assert section.expectation.min() > 0
        assert section.labels.shape == (spots,)
        assert set(section.labels) == set(CELL_TYPES)


def test_spots_are_distinct_on_the_grid_and_their_patches_in_the_image(
    sections: list[SimulatedSection],
) -> None:
    for section in sections:
        assert len(np.unique(section.array_xy, axis=0)) == len(section.array_xy)
        assert section.array_xy.min() >= demo.FIRST
        height, width, _ = section.image.shape
        assert section.pixel_xy.min() > 48
        assert (section.pixel_xy < np.array([width, height]) - 48).all()
        step = section.pixel_xy - demo.PITCH * section.array_xy
        assert 0.5 < step.std(axis=0).max() < 2


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others(
    sections: list[SimulatedSection],
) -> None:
    # One section made by itself: what was made before it must not matter.
    programs = demo._gene_programs(0)
    again = demo._simulate_section(0, "P2", "b", demo._patient_layouts(0)[1], programs)
    for key, value in _arrays(sections[3]).items():
        np.testing.assert_array_equal(value, _arrays(again)[key], err_msg=key)

    layouts, programs = demo._patient_layouts(1), demo._gene_programs(1)
    other = demo._simulate_section(1, "P2", "b", layouts[1], programs)
    assert not np.array_equal(other.image, again.image)
    assert not np.array_equal(other.counts[:100], again.counts[:100])


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed -1 is negative"):
        demo.simulate(-1)


@pytest.mark.parametrize(("cell_type", "prefix"), list(zip(CELL_TYPES, PREFIXES, strict=True)))
def test_markers_are_highest_where_their_cell_type_is(
    sections: list[SimulatedSection], cell_type: str, prefix: str
) -> None:
    for section in sections:
        markers = section.counts[:, _family(prefix)].sum(axis=1) / section.counts.sum(axis=1)
        here = section.labels == cell_type
        assert np.corrcoef(markers, here)[0, 1] > 0.5


def test_regions_change_smoothly(sections: list[SimulatedSection]) -> None:
    for section in sections:
        distance = np.abs(section.array_xy[:, None] - section.array_xy[None]).sum(axis=-1)
        same = section.labels[:, None] == section.labels[None]
        assert same[distance == 1].mean() > 1.5 * same[distance > 6].mean()


def test_counts_are_drawn_around_their_expectation(sections: list[SimulatedSection]) -> None:
    counts = np.concatenate([section.counts for section in sections])
    expectation = np.concatenate([section.expectation for section in sections])
    high = expectation > 5
    relative = (counts[high] - expectation[high]) / expectation[high]
    assert abs(relative.mean()) < 0.01
    # In units of a Poisson's: 1 + dispersion * mean, so that it grows with the mean.
    for low, top in ((2, 4), (10, 20), (30, 60)):
        chosen = (expectation > low) & (expectation < top)
        mean = expectation[chosen]
        factor = ((counts[chosen] - mean) ** 2).mean() / mean.mean()
        promised = 1 + demo.DISPERSION * (mean**2).mean() / mean.mean()
        assert factor == pytest.approx(promised, rel=0.1)
    assert 2000 < counts.sum(axis=1).mean() < 3000


def test_depth_follows_the_nuclei_that_the_image_shows_and_not_only_them(
    sections: list[SimulatedSection],
) -> None:
    for section in sections:
        total = np.log(section.expectation.sum(axis=1))
        dark = section.image.min(axis=2) < 110
        covered = [
            dark[y - 32 : y + 32, x - 32 : x + 32].mean() for x, y in section.pixel_xy.astype(int)
        ]
        assert 0.6 < np.corrcoef(total, covered)[0, 1] < 0.97
        depth = {label: total[section.labels == label].mean() for label in CELL_TYPES}
        assert depth["adipose"] < depth["stroma"] < depth["tumour"] < depth["immune"]


def test_all_tissue_has_nuclei(sections: list[SimulatedSection]) -> None:
    for section in sections:
        dark = section.image.min(axis=2) < 110
        rows = np.array_split(dark[150:-150], 8)
        columns = np.array_split(dark[:, 150:-150], 8, axis=1)
        assert min(part.mean() for part in [*rows, *columns]) > 0.03


def test_positions_tell_the_expression_within_a_patient_only(
    sections: list[SimulatedSection],
) -> None:
    within: list[float] = []
    across: list[float] = []
    for one, other in itertools.combinations(sections, 2):
        (within if one.patient == other.patient else across).append(
            _position_correlation(one, other)
        )
    assert len(within) == 3
    assert min(within) > 0.45
    assert np.abs(across).max() < 0.15
    assert abs(np.mean(across)) < 0.05


def test_stains_differ_between_patients_more_than_between_their_sections(
    sections: list[SimulatedSection],
) -> None:
    def nucleus_hue(section: SimulatedSection) -> np.ndarray:
        dark = section.image[section.image.min(axis=2) < 90].astype(float)
        density = -np.log(dark.mean(axis=0) / 244)
        return density / np.linalg.norm(density)

    hue = np.stack([nucleus_hue(section) for section in sections]).reshape(3, 2, 3)
    within = np.linalg.norm(hue[:, 0] - hue[:, 1], axis=1)
    between = [
        np.linalg.norm(hue[i, 0] - hue[j, 0]) for i, j in itertools.combinations(range(3), 2)
    ]
    assert min(between) > 2 * within.max()


def test_written_files_say_what_the_arrays_say(
    written: tuple[Path, SimulatedSection, list[Path]],
) -> None:
    folder, section, paths = written
    assert [str(path.relative_to(folder)) for path in paths] == [
        "counts/P1a.tsv.gz",
        "spots/P1a_selection.tsv",
        "images/P1a.jpg",
        "labels/P1a_labeled_coordinates.tsv",
    ]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(paths)

    counts = pd.read_csv(paths[0], sep="\t", index_col=0)
    names = [f"{x}x{y}" for x, y in section.array_xy]
    assert counts.index.name is None
    assert list(counts.index) == names
    assert list(counts.columns) == list(GENES)
    np.testing.assert_array_equal(counts.to_numpy(), section.counts)

    selection = pd.read_csv(paths[1], sep="\t")
    measured = ["new_x", "new_y", "pixel_x", "pixel_y"]
    assert list(selection.columns) == ["x", "y", *measured, "selected"]
    np.testing.assert_array_equal(selection[["x", "y"]].to_numpy(), section.array_xy)
    np.testing.assert_array_equal(
        selection[["new_x", "new_y"]].round().to_numpy(), section.array_xy
    )
    np.testing.assert_allclose(selection[["pixel_x", "pixel_y"]].to_numpy(), section.pixel_xy)
    assert (selection["selected"] == 1).all()

    labels = pd.read_csv(paths[3], sep="\t")
    assert list(labels.columns) == ["Row.names", "x", "y", "pixel_x", "pixel_y", "label"]
    assert list(labels["Row.names"]) == names
    assert list(labels["label"]) == list(section.labels)
    np.testing.assert_array_equal(labels[["x", "y"]].to_numpy(), section.array_xy)
    np.testing.assert_allclose(labels[["pixel_x", "pixel_y"]].to_numpy(), section.pixel_xy)

    with Image.open(paths[2]) as image:
        assert image.format == "JPEG"
        pixels = np.asarray(image, dtype=float)
    assert pixels.shape == section.image.shape
    assert np.abs(pixels - section.image).mean() < 5


def test_a_second_write_gives_the_same_bytes(
    written: tuple[Path, SimulatedSection, list[Path]], tmp_path: Path
) -> None:
    folder, section, paths = written
    for path, again in zip(paths, demo.write(section, tmp_path), strict=True):
        assert again.relative_to(tmp_path) == path.relative_to(folder)
        assert again.read_bytes() == path.read_bytes()


def test_generate_writes_every_section(
    sections: list[SimulatedSection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "simulate", lambda seed: sections)
    demo.generate(tmp_path, seed=0)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4 * len(sections)
