"""Nested subsets of the training patients of a fold."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.protocol.folds import SectionFacts, make_folds
from bench.protocol.rules import BY_SECTION, STRICT
from bench.protocol.training_patients import (
    learned_sections,
    mean_training_patients,
    patient_limits,
    training_patients,
)


def folds_of(patients, protocol=STRICT, spots=10):
    facts = [
        SectionFacts(f"{patient}-{n}", patient, spots + number, f"{patient}-{n}")
        for number, patient in enumerate(patients)
        for n in (1, 2)
    ]
    return make_folds("made", facts, protocol)


@pytest.mark.parametrize("count", [3, 6, 13])
def test_subsets_are_nested_and_leave_validation_and_test_alone(count):
    folds = folds_of([f"P{number}" for number in range(count)])
    for fold in folds.folds:
        every = training_patients(folds, fold)
        smaller: set[str] = set()
        for number in range(1, len(every) + 1):
            learned = learned_sections(folds, fold, number)
            assert {folds.patients[name] for name in learned} == set(every[:number])
            assert len(learned) == 2 * number
            assert smaller < set(learned) <= set(fold.train)
            smaller = set(learned)
        assert learned_sections(folds, fold, None) == fold.train
        assert learned_sections(folds, fold, len(every)) == fold.train


def test_the_order_is_one_for_all_folds_and_not_that_of_the_card():
    patients = [f"P{number}" for number in range(8)]
    folds, turned = folds_of(patients), folds_of(patients[::-1])
    orders = [training_patients(folds, fold) for fold in folds.folds]
    for order in orders:
        shared = [name for name in orders[0] if name in order]
        assert [name for name in order if name in shared] == shared
    assert any(list(order) != sorted(order) for order in orders)
    by_test = {fold.test: training_patients(turned, fold) for fold in turned.folds}
    for fold, order in zip(folds.folds, orders, strict=True):
        other = by_test[tuple(sorted(fold.test))]
        shared = [name for name in order if name in other]
        assert [name for name in other if name in order] == shared


def test_numbers_that_every_fold_has_exactly_are_all_patients():
    folds = folds_of(["A", "B", "C", "D"])
    assert mean_training_patients(folds) == 2
    assert patient_limits(folds, STRICT, (1, 2, None)) == (1, None)
    assert patient_limits(folds, STRICT, (None,)) == (None,)


@pytest.mark.parametrize("number", [0, -1, 3, 10**9])
def test_too_few_and_too_many_patients_are_refused_with_the_number(number):
    folds = folds_of(["A", "B", "C", "D"])
    with pytest.raises(BenchError, match=r"have 2 training patients .*from 1 to 2, or all"):
        patient_limits(folds, STRICT, (number,))


def test_folds_of_unequal_numbers_tell_both():
    folds = folds_of([f"P{number}" for number in range(13)])
    with pytest.raises(BenchError, match=r"have 10 to 11 training patients"):
        patient_limits(folds, STRICT, (11,))
    assert patient_limits(folds, STRICT, (10,)) == (10,)


def test_folds_by_section_are_refused():
    folds = folds_of(["A", "B"], BY_SECTION)
    with pytest.raises(BenchError, match="split by patient"):
        patient_limits(folds, BY_SECTION, (1,))
    assert patient_limits(folds, BY_SECTION, (None,)) == (None,)
