"""Checks that a method does not change its inputs and does not see test expression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from bench.contract.outcome import ContractError
from bench.contract.small_fold import arrays_of, small_sections
from bench.contract.subject import Subject, difference
from bench.data.inputs import Slide, TrainingData
from bench.protocol.rules import Protocol

_PROTOCOL = Protocol(name="contract", version=1, title="for the small sections", split="patient")


def leaves_inputs_alone(subject: Subject) -> None:
    """It changes none of the arrays it is given."""
    data, slides = subject.data(writeable=False), subject.slides(writeable=False)
    before = _values(data, slides)
    with warnings.catch_warnings():
        # torch's advice on tensors that share such an array's memory: their writes show below.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        try:
            subject.predict(subject.fit(data), *slides)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise ContractError(f"it writes to its inputs: {error}") from error
    after = _values(data, slides)
    changed = [name for name, old in before.items() if not np.array_equal(old, after[name])]
    if changed:
        raise ContractError(f"it changed {changed[0]}")


def _values(data: TrainingData, slides: Sequence[Slide]) -> dict[str, np.ndarray]:
    """Copies of all arrays of a fold, by section and name."""
    return {
        f"{name} of {where} {section.name}": value.copy()
        for where, sections in (("section", data.sections), ("slide", slides))
        for section in sections
        for name, value in arrays_of(section).items()
    }


def never_sees_test_expression(subject: Subject) -> None:
    """Predictions do not change when the test section's expression is scrambled."""
    subject.needs_repeats()
    first, second = (_predictions_of_c1(subject, scrambled) for scrambled in (None, "C1"))
    if first[0].shape != second[0].shape:
        raise ContractError("scrambled counts of the test section change the panel")
    differs = difference(first, second)
    if differs:
        raise ContractError(f"scrambled counts of the test section change predictions {differs}")


def _predictions_of_c1(subject: Subject, scrambled: str | None) -> list[np.ndarray]:
    """Predictions of a method for a section that is read and split as in a run."""
    from bench.protocol.fold_data import fold_data
    from bench.protocol.folds import Fold

    sections = small_sections(subject.folder / "sections", scrambled=scrambled)
    fold = Fold(index=0, train=("A1", "A2"), validation=("B1",), test=("C1",))
    data = fold_data(fold, sections, _PROTOCOL)
    return subject.predict(subject.fit(data.training), *data.slides, panel=data.training.panel)
