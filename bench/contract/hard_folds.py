"""Folds with edge cases of real datasets: a method works, or gives the reason why it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.contract.outcome import ContractError
from bench.contract.small_fold import SPOTS, AnySlide, first_spots, with_arrays
from bench.contract.subject import Subject
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.errors import BenchError

_APART = 15
"""Array units between neighbouring spots; the whole grid stays below position 64."""


def fits_without_validation_sections(subject: Subject) -> str | None:
    """It fits a fold without validation sections, or says why it cannot."""
    data = subject.data()
    return _works_or_refuses(subject, TrainingData(data.panel, data.train), *subject.slides())


def copes_with_a_section_of_one_spot(subject: Subject) -> str | None:
    """It fits a fold with a training section of one spot, or says why it cannot."""
    data = subject.data()
    train = (first_spots(data.train[0], 1), *data.train[1:])
    return _works_or_refuses(subject, replace(data, train=train), *subject.slides())


def copes_with_a_slide_of_one_spot(subject: Subject) -> str | None:
    """It predicts a slide of one spot, or says why it cannot."""
    single = first_spots(subject.slides()[0], 1)
    try:
        subject.predict(subject.fitted.method, single)
    except BenchError as error:
        return _refusal(error)
    return None


def copes_with_isolated_spots(subject: Subject) -> str | None:
    """It fits and predicts sections whose spots have no neighbours, or says why it cannot."""
    data = subject.data()
    scattered = TrainingData(
        data.panel, tuple(map(_scattered, data.train)), tuple(map(_scattered, data.validation))
    )
    return _works_or_refuses(subject, scattered, *map(_scattered, subject.slides()))


def copes_with_constant_genes(subject: Subject) -> str | None:
    """It fits a fold in which genes are constant, or says why it cannot."""
    data = subject.data()
    flat = TrainingData(
        data.panel, tuple(map(_flat, data.train)), tuple(map(_flat, data.validation))
    )
    return _works_or_refuses(subject, flat, *subject.slides())


def _works_or_refuses(subject: Subject, data: TrainingData, *slides: Slide) -> str | None:
    try:
        subject.predict(subject.fit(data), *slides)
    except BenchError as error:
        return _refusal(error)
    return None


def _refusal(error: BenchError) -> str:
    lines = str(error).splitlines()
    if len(lines) != 1:
        raise ContractError(f"it refuses with {len(lines)} lines; one is wanted") from error
    return f"refused: {error}"


def _scattered(section: AnySlide) -> AnySlide:
    spots = np.arange(SPOTS)[: len(section)]
    return with_arrays(section, {"array_xy": _APART * np.stack([spots % 5, spots // 5], axis=1)})


def _flat(section: TrainingSection) -> TrainingSection:
    """Section in which one gene is zero and another has the same value in all spots."""
    arrays = {name: getattr(section, name).copy() for name in ("expression", "target", "counts")}
    for name, values in arrays.items():
        values[:, 2] = 5 if name == "counts" else 0.5
        values[:, 3] = 0
    return with_arrays(section, arrays)
