"""Checks of predictions and of what they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from bench.contract.outcome import ContractError, NotApplicableError
from bench.contract.small_fold import first_spots
from bench.contract.subject import SEED, Subject, check_predictions, difference
from bench.data.inputs import TrainingData
from bench.method import Context, Method, MethodConfig

_OTHER_STATE = 99
_ROUNDING = 1e-3


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


def reads_one_patch_a_spot_as_it_says(subject: Subject) -> None:
    """Where reads_section is false, a spot is predicted the same without its neighbours."""
    if subject.kind.reads_section:
        raise NotApplicableError("it may read the whole section")
    fitted, (whole, _) = subject.fitted, subject.slides()
    some = first_spots(whole, len(whole) // 2)
    (found,) = subject.predict(fitted.method, some)
    wanted = fitted.predictions[0][: len(some)]
    largest = float(np.abs(found - wanted).max())
    # Products of other numbers of rows are rounded in another way.
    if largest > _ROUNDING * max(1.0, float(np.abs(wanted).max())):
        raise ContractError(
            f"without half of its section a spot is predicted differently, by up to {largest:.2g}:"
            " set reads_section = True"
        )


def tries_settings_of_prediction_on_one_fit(subject: Subject) -> None:
    """Settings of predict_space need no new fit, and predict_each gives what predict gives."""
    method, space = subject.fitted.method, subject.kind.predict_space
    if not space:
        raise NotApplicableError("it has no predict_space")
    if not space.keys() <= type(method.config).model_fields.keys():
        raise NotApplicableError("needs a predict_space of settings")
    subject.needs_repeats()
    own = method.config
    others = {name: [v for v in space[name] if v != getattr(own, name)] for name in space}
    configs = [
        own.model_copy(update={name: values[end] for name, values in others.items() if values})
        for end in (0, -1)
    ] + [own]
    with subject.surroundings():
        each_alone = Method.predict_each(method, subject.slides(), Context(seed=SEED), configs)
        wanted = list(each_alone)
    with subject.surroundings():
        predictions = list(method.predict_each(subject.slides(), Context(seed=SEED), configs))
    left, method.config = method.config, own
    if left != own:
        raise ContractError("predict_each changes the settings of the method")
    if len(predictions) != len(configs):
        raise ContractError(
            f"predict_each gave {len(predictions)} results for {len(configs)} settings"
        )
    for config, one, other in zip(configs, wanted, predictions, strict=True):
        check_predictions(other, subject.slides(), subject.data().panel)
        differs = difference(one, other)
        if differs:
            told = _told(config, space)
            raise ContractError(f"with {told} predict_each differs from predict {differs}")
    differs = difference(wanted[0], subject.predict(subject.fit(config=configs[0])))
    if differs:
        told = _told(configs[0], space)
        raise ContractError(f"with {told} a new fit changes predictions {differs}")


def _told(config: MethodConfig, names: Iterable[str]) -> str:
    return ", ".join(f"{name}={getattr(config, name)}" for name in names)


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
