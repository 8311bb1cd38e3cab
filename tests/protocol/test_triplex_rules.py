"""Rules of protocol triplex: genes by total counts, smoothed target, folds that a card lists."""

import numpy as np
import pytest
import scipy.sparse as sp

from bench.errors import BenchError
from bench.protocol.fold_data import fold_data
from bench.protocol.folds import Fold, SectionFacts, make_folds
from bench.protocol.normalise import normalise, smooth, target_values
from bench.protocol.panel import panel_by_totals
from bench.protocol.rules import TRIPLEX, find_protocol
from bench.registry import dataset_card


def test_smoothing_is_the_mean_over_the_spots_within_one_column_and_row():
    rng = np.random.default_rng(0)
    places = np.stack([rng.integers(0, 6, 30), rng.integers(-2, 3, 30)], axis=1)
    values = rng.random((30, 4))
    found = smooth(values, places)
    for spot, (column, row) in enumerate(places):
        near = (abs(places[:, 0] - column) <= 1) & (abs(places[:, 1] - row) <= 1)
        np.testing.assert_allclose(found[spot], values[near].mean(axis=0), rtol=1e-12)


def test_an_isolated_spot_and_a_section_of_one_keep_their_values():
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    places = np.array([[0, 0], [0, 1], [9, 9]])
    np.testing.assert_allclose(smooth(values, places), [[2, 3], [2, 3], [5, 6]])
    np.testing.assert_array_equal(smooth(values[:1], places[:1]), values[:1])


def test_the_target_is_smoothed_after_scaling_within_the_panel():
    counts = sp.csr_matrix(np.array([[1, 3, 90], [4, 0, 0], [0, 0, 7]]))
    panel, places = np.array([1, 0]), np.array([[0, 0], [1, 1], [5, 5]])
    plain = np.log1p(1e4 * np.array([[0.75, 0.25], [0, 1], [0, 0]]))
    np.testing.assert_allclose(normalise(counts, panel, TRIPLEX.target), plain)
    both = plain[:2].mean(axis=0)
    found = target_values(counts, panel, TRIPLEX, places)
    np.testing.assert_allclose(found, [both, both, plain[2]])
    strict = find_protocol("strict")
    np.testing.assert_array_equal(
        target_values(counts, panel, strict, places), normalise(counts, panel, strict.target)
    )


@pytest.fixture
def sections(make_section):
    rng = np.random.default_rng(0)
    genes = ["rare", "C", "B", "A", "low", "one-only"]
    one = rng.poisson([0.01, 9, 4, 4, 1, 50], (40, 6))
    two = rng.poisson([0.01, 2, 4, 4, 1], (40, 5))
    # Equal totals, so that the names decide.
    one[:, 3], two[:, 3] = one[:, 2], two[:, 2]
    first = make_section("S1", "P1", one, genes)
    return {"S1": first, "S2": make_section("S2", "P2", two[:, ::-1], genes[:5][::-1])}


def test_the_panel_is_the_genes_of_highest_total_that_all_sections_have(sections, make_section):
    rules = TRIPLEX.model_copy(update={"panel_size": 3})
    assert panel_by_totals(sections.values(), rules) == ("C", "A", "B")
    assert panel_by_totals(sections.values(), TRIPLEX) == ("C", "A", "B", "low")
    often = rules.model_copy(update={"detected_share": 0.5})
    with pytest.raises(BenchError, match="no gene is detected in 50% of all spots"):
        panel_by_totals([make_section("S3", "P3", np.eye(3))], often)
    with pytest.raises(BenchError, match="no gene in common"):
        panel_by_totals([], rules)


def test_a_fold_has_smoothed_targets_and_truth_on_one_scale(sections):
    panel = panel_by_totals(sections.values(), TRIPLEX)
    fold = Fold(index=0, train=("S1",), validation=(), test=("S2",))
    data = fold_data(fold, sections, TRIPLEX, panel)
    (trained,), (truth,) = data.training.train, data.truth
    assert data.training.panel == panel
    columns = sections["S2"].adata.var_names.get_indexer(list(panel))
    wanted = smooth(
        normalise(sections["S2"].adata.X, columns, TRIPLEX.target), sections["S2"].array_xy
    )
    np.testing.assert_allclose(truth.expression, wanted)
    np.testing.assert_array_equal(trained.expression, trained.target)
    plain = fold_data(fold, sections, TRIPLEX.model_copy(update={"smoothing": "none"}), panel)
    assert truth.expression.std() < plain.truth[0].expression.std()


def facts(patients):
    return [SectionFacts(f"{patient}{n}", patient) for patient in patients for n in (1, 2)]


def test_folds_follow_the_order_of_the_card_and_hold_out_a_training_patient():
    folds = make_folds("d", facts("ABCD"), TRIPLEX, groups=(("C",), ("D", "A"), ("B",)))
    assert [fold.test for fold in folds.folds] == [
        ("C1", "C2"),
        ("A1", "A2", "D1", "D2"),
        ("B1", "B2"),
    ]
    for fold in folds.folds:
        assert fold.validation
        assert not {name[0] for name in fold.validation} & {name[0] for name in fold.test}
        assert not {name[0] for name in fold.validation} & {name[0] for name in fold.train}


def test_patients_without_a_section_fall_out_and_unlisted_ones_are_refused():
    folds = make_folds("d", facts("AB"), TRIPLEX, groups=(("C",), ("B",), ("A", "C")))
    assert [fold.test for fold in folds.folds] == [("B1", "B2"), ("A1", "A2")]
    with pytest.raises(BenchError, match="patient C is in no fold that the card lists"):
        make_folds("d", facts("ABC"), TRIPLEX, groups=(("A",), ("B",)))
    own = make_folds("d", facts("ABC"), TRIPLEX)
    assert [fold.test[0] for fold in own.folds] == ["A1", "B1", "C1"]


def test_the_cards_list_the_published_folds():
    def of(name):
        return dataset_card(name).patient_folds

    assert "".join(patient for (patient,) in of("her2st")) == "DCBAHGFE"
    assert of("cscc") == (("P9",), ("P5",), ("P2",), ("P10",))
    assert [len(fold) for fold in of("stnet")] == [3, 3, 3, 3, 3, 3, 3, 2]
    assert of("demo") == ()


@pytest.mark.parametrize("folds", [(("P1", "P2"),), (("P1",), ("P1",)), (("P1",), ())])
def test_a_card_with_folds_that_miss_or_repeat_a_patient_is_refused(make_card, folds):
    with pytest.raises(ValueError, match="patient_folds must name every patient in one fold"):
        make_card(patient_folds=folds)


def test_the_hashes_of_the_other_protocols_stay():
    # Stored results name them.
    known = {
        "strict": "4614d6060fde",
        "published": "a0ca8cd20c4c",
        "by-section": "9049c1061b5a",
        "hest": "3390b398d7b4",
        "hest-paper": "bc1c463a5370",
    }
    assert {name: find_protocol(name).hash[:12] for name in known} == known


def test_smoothing_and_published_folds_are_part_of_the_hash():
    plain = TRIPLEX.model_copy(update={"smoothing": "none"})
    own = TRIPLEX.model_copy(update={"patient_folds": "own"})
    assert len({plain.hash, own.hash, TRIPLEX.hash}) == 3
