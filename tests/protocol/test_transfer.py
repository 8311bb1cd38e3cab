"""One fold over two datasets: its sides, its panel, and the scale of the test images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.errors import BenchError, DataError, LeakError
from bench.files import file_hash
from bench.protocol.fold_data import fold_data, slide_of
from bench.protocol.folds import Fold, SectionFacts
from bench.protocol.rules import BY_SECTION, HEST, PUBLISHED, STRICT, TRIPLEX
from bench.protocol.transfer import (
    at_training_scale,
    own_name,
    transfer_folds,
    transfer_protocol,
)


def facts(*names, image=""):
    return [SectionFacts(name, name[0], 10, f"{image}{name}") for name in names]


TRAINED, TESTED = facts("A1", "A2", "B1", "C1"), facts("X1", "Y1", image="other")


def test_all_patients_are_for_training_and_one_of_them_for_validation():
    rules = transfer_protocol(STRICT, "b")
    folds = transfer_folds("a", "b", TRAINED, TESTED, rules)
    (fold,) = folds.folds
    assert fold.train == ("A1", "A2", "C1")
    assert fold.validation == ("B1",)
    assert fold.test == ("X1", "Y1")
    assert folds.patients["X1"] == "b:X"
    assert (folds.dataset, folds.protocol) == ("a", "strict-to-b")
    assert folds.protocol_hash == rules.hash != STRICT.hash


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [(("A1", "A2"), ("A1",), ("A2",)), (("A1",), ("A1",), ()), (("A1", "B1"), ("A1",), ("B1",))],
)
def test_few_training_sections_leave_one_to_learn_from(names, train, validation):
    folds = transfer_folds("a", "b", facts(*names), TESTED, transfer_protocol(STRICT, "b"))
    assert (folds.folds[0].train, folds.folds[0].validation) == (train, validation)


def test_sections_of_one_name_are_told_apart_by_their_dataset():
    tested = facts("A1", "Z1", image="other")
    folds = transfer_folds("a", "b", TRAINED, tested, transfer_protocol(STRICT, "b"))
    assert folds.folds[0].test == ("A1@b", "Z1")
    assert [own_name(name, {"A1": 0, "Z1": 0}, "b") for name in folds.folds[0].test] == ["A1", "Z1"]
    with pytest.raises(DataError, match="rename them"):
        transfer_folds("a", "b", TRAINED, facts("A1", "A1@b"), transfer_protocol(STRICT, "b"))


def test_an_image_on_both_sides_is_refused():
    with pytest.raises(LeakError, match="same image"):
        transfer_folds("a", "b", TRAINED, facts("A1"), transfer_protocol(STRICT, "b"))


@pytest.mark.parametrize("protocol", [BY_SECTION, PUBLISHED, HEST])
def test_protocols_without_a_split_by_patient_are_refused(protocol):
    with pytest.raises(BenchError, match=f"protocol {protocol.name} cannot be tested on another"):
        transfer_protocol(protocol, "b")


def test_the_rules_differ_in_the_name_alone():
    for protocol in (STRICT, TRIPLEX):
        changed = transfer_protocol(protocol, "b")
        assert changed == protocol.model_copy(update={"name": f"{protocol.name}-to-b"})


@pytest.fixture
def measured(make_section):
    """Four sections of 60 spots: two to train on, one for validation, one of another dataset."""
    rng = np.random.default_rng(0)
    genes = [f"G{number}" for number in range(30)]

    def section(name, patient, genes):
        return make_section(name, patient, rng.poisson(4.0, (60, len(genes))), genes)

    sections = [section(name, name, genes) for name in ("A", "B", "C")]
    return {s.name: s for s in [*sections, section("X", "X", [*genes[5:], "NEW"])]}


FOLD = Fold(index=0, train=("A", "B"), validation=("C",), test=("X",))


def test_the_panel_is_chosen_among_genes_that_both_measured(measured):
    plain = fold_data(FOLD, measured, STRICT)
    shared = fold_data(FOLD, measured, STRICT, shared_genes=True)
    assert plain.training.panel == tuple(f"G{number}" for number in range(30))
    assert plain.unmeasured_genes == {"X": 5}
    assert shared.training.panel == tuple(f"G{number}" for number in range(5, 30))
    assert shared.unmeasured_genes == {}
    few = STRICT.model_copy(update={"panel": "expressed", "panel_size": 7})
    assert len(fold_data(FOLD, measured, few, shared_genes=True).training.panel) == 7
    listed = STRICT.model_copy(update={"panel": "published"})
    cut = fold_data(FOLD, measured, listed, ("G9", "G1", "G7"), shared_genes=True)
    assert cut.training.panel == ("G9", "G7")


def test_no_gene_in_common_is_refused(measured):
    other = measured["X"]
    renamed = other.adata.copy()
    renamed.var_names = [f"H{number}" for number in range(renamed.n_vars)]
    sections = {**measured, "X": replace(other, adata=renamed)}
    with pytest.raises(BenchError, match="no gene in common"):
        fold_data(FOLD, sections, STRICT, shared_genes=True)


def test_fewer_training_patients_leave_panel_heg_and_truth_as_they_are(measured):
    rules = STRICT.model_copy(update={"panel_size": 10, "heg_genes": 4})
    whole = fold_data(FOLD, measured, rules)
    part = fold_data(FOLD, measured, rules, learned=("B",))
    assert [s.name for s in whole.training.train] == ["A", "B"]
    assert [s.name for s in part.training.train] == ["B"]
    assert [s.name for s in part.training.validation] == ["C"]
    assert part.training.panel == whole.training.panel
    for one, other in zip(part.truth, whole.truth, strict=True):
        np.testing.assert_array_equal(one.heg, other.heg)
        np.testing.assert_array_equal(one.expression, other.expression)
    np.testing.assert_array_equal(part.training.train[0].target, whole.training.train[1].target)


# -------------------------------------------------------------------------------- scale


@pytest.fixture
def pictured(make_section, tmp_path):
    """A section of 12 spots with a smooth image of 0.5 um a pixel."""
    y, x = np.mgrid[:200, :400]
    colours = [128 + 90 * np.sin(x / 31), 128 + 90 * np.cos(y / 23), (x + y) / 3]
    path = tmp_path / "image.png"
    Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8)).save(path)
    counts = np.random.default_rng(0).poisson(4.0, (12, 5))
    section = make_section("X", "X", counts, None, path, f"sha256:{file_hash(path)}")
    return replace(section, micrometres_per_pixel=0.5)


def test_test_patches_show_as_much_tissue_as_training_patches(pictured):
    scaled = at_training_scale(pictured, "X@b", [1.0, 1.0], 16)
    assert (scaled.name, scaled.patient) == ("X@b", "X")
    assert (scaled.micrometres_per_pixel, scaled.patch_pixels) == (1.0, 16)
    np.testing.assert_allclose(scaled.spatial, pictured.spatial / 2)
    np.testing.assert_array_equal(pictured.spatial[0], [50.0, 50.0])  # not changed in place
    found = slide_of(scaled).patches()
    wanted = slide_of(pictured).patches(32, 16)
    assert found.shape == wanted.shape == (12, 16, 16, 3)
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 4
    in_um = slide_of(scaled).patches("16um", 16).astype(int)
    assert np.abs(in_um - wanted.astype(int)).max() <= 4


@pytest.mark.parametrize("known", [[0.5], [0.4, 0.6], [0.503]])
def test_images_of_the_training_scale_keep_their_pixels(pictured, known):
    same = at_training_scale(pictured, "X", known, 16)
    assert same.micrometres_per_pixel == 0.5
    assert same.image_scale == 1.0
    np.testing.assert_array_equal(same.spatial, pictured.spatial)


def test_a_scale_beyond_four_times_is_refused(pictured):
    with pytest.raises(DataError, match=r"section X has 0.5 um a pixel .* beyond 4 times"):
        at_training_scale(pictured, "X", [3.0], 16)


def test_stored_patches_are_not_resampled(pictured):
    stored = replace(pictured, image=None, image_hash=None, patches=pictured.image)
    kept = at_training_scale(stored, "X", [1.0], 16)
    assert (kept.micrometres_per_pixel, kept.patch_pixels) == (0.5, stored.patch_pixels)
