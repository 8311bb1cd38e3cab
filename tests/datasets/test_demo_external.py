"""The external demo dataset: the demo's biology in other patients, stain, scale and genes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench.data.dataset import open_dataset
from bench.datasets import demo, demo_external
from bench.registry import dataset_card


@pytest.fixture(scope="module")
def opened():
    return {name: open_dataset(dataset_card(name)) for name in ("demo", "demo-external")}


def test_patients_and_names_are_other_ones(opened):
    names, patients = [], []
    for dataset in opened.values():
        names.append(set(dataset.hashes))
        patients.append({dataset.card.section(name).patient for name in dataset.hashes})
    assert not names[0] & names[1]
    assert not patients[0] & patients[1]
    assert patients[1] == {"E1", "E2", "E3"}


def test_some_genes_are_missing_and_one_is_new(opened):
    genes = [set(next(iter(dataset)).adata.var_names) for dataset in opened.values()]
    assert genes[1] - genes[0] == {demo_external.NEW_GENE}
    assert len(genes[0] - genes[1]) == len(demo.GENES) // demo_external.MISSING_EVERY
    assert set(demo_external.MEASURED) == genes[1]


def test_scale_and_stain_are_other_ones(opened):
    scales, colours = [], []
    for dataset in opened.values():
        section = next(iter(dataset))
        scales.append(section.micrometres_per_pixel)
        with Image.open(section.image) as image:
            pixels = np.asarray(image, dtype=np.float64)
        assert pixels.shape[0] * section.micrometres_per_pixel == pytest.approx(3000)
        brightness = pixels.mean(axis=2)
        nuclei = pixels[brightness < np.quantile(brightness, 0.03)]
        density = -np.log((nuclei + 1) / 246).mean(axis=0)
        colours.append(density / np.linalg.norm(density))
    assert scales == [2.0, 1.6]
    assert np.linalg.norm(colours[0] - colours[1]) > 0.05


def test_spots_lie_on_the_same_tissue_positions(opened):
    section = next(iter(opened["demo-external"]))
    pitch = np.diff(np.unique(np.round(section.spatial[:, 0] / 125)))
    assert set(pitch) == {1.0}
    assert (section.array_xy.min(axis=0) >= demo.FIRST).all()


def test_cell_types_express_the_genes_of_the_demo(opened):
    """Mean profiles of a cell type correlate between the datasets, and not across types."""
    profiles = []
    shared = [gene for gene in demo.GENES if gene in demo_external.MEASURED]
    for dataset in opened.values():
        section = next(iter(dataset))
        part = section.adata[:, shared]
        share = np.log1p(1e4 * part.X.toarray() / part.X.sum(axis=1))
        labels = part.obs["label"].astype(str).to_numpy()
        kinds = [kind for kind in demo.CELL_TYPES if (labels == kind).sum() > 5]
        centred = {kind: np.asarray(share[labels == kind]).mean(axis=0) for kind in kinds}
        mean = np.mean(list(centred.values()), axis=0)
        profiles.append({kind: of - mean for kind, of in centred.items()})
    common = sorted(set(profiles[0]) & set(profiles[1]))
    assert len(common) >= 3
    for one in common:
        r = {kind: np.corrcoef(profiles[0][one], profiles[1][kind])[0, 1] for kind in common}
        assert max(r, key=lambda kind: r[kind]) == one
        assert r[one] > 0.5
