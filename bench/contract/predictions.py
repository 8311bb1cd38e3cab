"""What a prediction is, and what it may depend on."""

from __future__ import annotations

from dataclasses import replace

from bench.contract.check import ContractError, NotApplicableError
from bench.contract.subject import Subject, difference
from bench.data.views import TrainingData

_OTHER_STATE = 99


def predicts_each_slide(subject: Subject) -> None:
    """It fits a small fold and predicts one finite float32 (spots, panel) array a slide."""
    subject.first()


def repeats_itself(subject: Subject) -> None:
    """The same seed gives the same bits."""
    differs = subject.difference_of_second_fit
    if differs:
        raise ContractError(f"two fits with seed 1 differ {differs}")


def ignores_global_state(subject: Subject) -> None:
    """The global random state of Python, NumPy and torch changes nothing."""
    subject.needs_repeats()
    fitted = subject.fitted
    differs = difference(fitted.predictions, subject.predict(fitted.method, state=_OTHER_STATE))
    if differs:
        raise ContractError(f"under another global state predictions differ {differs}")
    differs = difference(fitted.predictions, subject.predict(subject.fit(state=_OTHER_STATE)))
    if differs:
        raise ContractError(f"after a fit under another global state predictions differ {differs}")


def predicts_alone_as_in_company(subject: Subject) -> None:
    """A slide is predicted the same alone and in company."""
    fitted = subject.fitted
    whole, part = subject.slides()
    for slide, in_company in zip((whole, part), fitted.predictions, strict=True):
        differs = difference([in_company], subject.predict(fitted.method, slide))
        if differs:
            raise ContractError(f"alone a slide is predicted differently, {differs}")
    differs = difference(fitted.predictions[::-1], subject.predict(fitted.method, part, whole))
    if differs:
        raise ContractError(f"in another order slides are predicted differently, {differs}")


def looks_at_images_as_it_says(subject: Subject) -> None:
    """Images matter if and only if needs_image says so."""
    fitted = subject.fitted
    shuffled = [slide.with_images_shuffled(3) for slide in subject.slides()]
    differs = difference(fitted.predictions, subject.predict(fitted.method, *shuffled))
    if subject.kind.needs_image and not differs:
        raise ContractError("needs_image is true, but patches of the wrong spots change nothing")
    if differs and not subject.kind.needs_image:
        raise ContractError(f"needs_image is false, but other patches change it {differs}")


def does_without_images(subject: Subject) -> None:
    """A method with needs_image false works without images."""
    if subject.kind.needs_image:
        raise NotApplicableError("it needs images")
    data = subject.data()
    blind = TrainingData(
        data.panel,
        tuple(replace(section, patch_source=None) for section in data.train),
        tuple(replace(section, patch_source=None) for section in data.validation),
    )
    slides = [replace(slide, patch_source=None) for slide in subject.slides()]
    subject.predict(subject.fit(blind), *slides)
