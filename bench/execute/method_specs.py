"""Who is compared: methods with their settings, their permuted-image controls, oracles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import BenchError, ConfigError, DataError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.execute.request import FoldSettings
from bench.registry import find_methods
from bench.worker.describe import describe
from bench.worker.process import WorkerFailedError, run_worker

SHUFFLED = "shuffled"
RELEASED = "released"
TUNED = "tuned"


@dataclass(frozen=True)
class MethodFacts:
    """What the harness knows of a method; its module need not be imported to use them.

    Attributes
    ----------
    built_in
        Whether it is part of this package.
    needs_image
        Whether it looks at images.
    control
        Whether it is a negative control.
    has_presets
        Whether its settings depend on the preset.
    released
        Whether it reads checkpoints of its authors.
    settings
        Names of its settings.
    code
        Hashes of its modules and versions of distributions; see
        :func:`bench.sources.method_code`.
    harness
        What it imports of the harness; see :func:`bench.sources.harness_imports`.
    """

    built_in: bool
    needs_image: bool
    control: bool
    has_presets: bool
    released: bool
    settings: tuple[str, ...]
    code: Mapping[str, str]
    harness: tuple[str, ...]


@dataclass(frozen=True)
class MethodSpec:
    """Something that is run and gets a row: a method, its permuted-image control, or an oracle.

    Attributes
    ----------
    label
        The row's name: ``mclstexp``, ``shuffled:mclstexp``, ``depth``.
    method
        Name of the method, None for an oracle.
    shuffled
        Whether test images are permuted among the spots.
    config
        All settings of the method, as JSON has them.
    facts
        What is known of the method; None for an oracle.
    changes
        Settings that differ from the preset's: by name, the preset's value and the one used.
    checkpoint
        Checkpoint of the method's authors that takes the place of a fit.
    fold_configs
        Settings by fold where they differ, as after tuning; then there are no other folds.
    """

    label: str
    method: str | None
    shuffled: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: MethodFacts | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    fold_configs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def in_fold(self, fold: int) -> MethodSpec:
        """The same with the settings of one fold."""
        return replace(self, config=self.fold_configs.get(fold, self.config), fold_configs={})

    @property
    def kind(self) -> str:
        """``oracle``, ``control`` or ``method``."""
        if self.facts is None:
            return "oracle"
        return "control" if self.shuffled or self.facts.control else "method"

    @property
    def needs_image(self) -> bool:
        """Whether it looks at images."""
        return self.facts is not None and self.facts.needs_image

    def without_shuffling(self) -> MethodSpec:
        """The method itself, of which this is the permuted-image control."""
        return replace(self, label=str(self.method), shuffled=False)

    @property
    def has_presets(self) -> bool:
        """Whether its settings depend on the preset."""
        return self.facts is not None and self.facts.has_presets


def resolve_methods(
    methods: Sequence[str], dataset: str, preset: str, settings: Mapping[str, Any]
) -> list[MethodSpec]:
    """What the names of a request mean, each with its settings.

    Parameters
    ----------
    methods
        Names of methods and oracles, ``shuffled:METHOD``, or ``shuffled`` for the permuted-image
        controls of all methods beside it that look at images.
    dataset, preset
        Choose a method's settings.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting`` for one.

    Raises
    ------
    BenchError
        An unknown name, a setting that no method has, or a control that changes nothing.
    """
    known = find_methods()
    described: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in known:
            raise UnknownNameError("method", name, [*known, *ORACLES, SHUFFLED])
        if name not in described:
            described[name] = _describe(name, dataset, preset, settings)
        return described[name]

    labels: list[str] = []
    for label in methods:
        if label == SHUFFLED:
            twins = [
                f"{SHUFFLED}:{name}"
                for name in methods
                if name in known and of(name)["facts"].needs_image
            ]
            if not twins:
                raise BenchError(
                    "'shuffled' is the control of a method that looks at images; name one beside"
                    " it, or write shuffled:METHOD"
                )
            labels += twins
        else:
            labels.append(label)
    labels = list(dict.fromkeys(labels))
    if not labels:
        raise BenchError("no method named; see 'bench list methods'")

    specs = []
    for label in labels:
        if label in ORACLES:
            specs.append(MethodSpec(label, None))
            continue
        shuffled = label.startswith(f"{SHUFFLED}:")
        name = label.removeprefix(f"{SHUFFLED}:")
        found = of(name)
        if shuffled and not found["facts"].needs_image:
            raise BenchError(f"{label}: {name} does not look at images, shuffling changes nothing")
        specs.append(
            MethodSpec(
                label=label,
                method=name,
                shuffled=shuffled,
                config=found["config"],
                facts=found["facts"],
                changes=found["changes"],
            )
        )
    unused = set(settings).difference(*(found["used"] for found in described.values()))
    if unused:
        names = {name for found in described.values() for name in found["facts"].settings}
        raise UnknownNameError("setting", sorted(unused)[0], names or {"(none)"})
    return specs


def released_spec(
    method: str, checkpoint: Path, dataset: str, preset: str, settings: Mapping[str, Any]
) -> MethodSpec:
    """A method that takes an authors' checkpoint instead of fitting; it gets a row of its own.

    Raises
    ------
    BenchError
        An unknown method or setting, a method without released checkpoints, a missing file.
    """
    if not checkpoint.is_file():
        raise DataError(f"{checkpoint}: no such checkpoint file")
    if ":" in method or method in ORACLES:
        raise BenchError(f"{method}: a checkpoint belongs to a method, not to a control or oracle")
    (method_spec,) = resolve_methods([method], dataset, preset, settings)
    assert method_spec.facts is not None  # only oracles have none
    if not method_spec.facts.released:
        raise ConfigError(f"{method} has no released checkpoints to read")
    return replace(method_spec, label=f"{RELEASED}:{method}", checkpoint=checkpoint)


def tuned_spec(
    method: str,
    found: Mapping[int, FoldSettings],
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
) -> MethodSpec:
    """A method with settings of its own for every fold; it gets a row of its own."""
    (method_spec,) = resolve_methods([method], dataset, preset, settings)
    whole = _describe(method, dataset, preset, settings, [of.config for of in found.values()])
    chosen = dict(zip(found, whole["whole"], strict=True))
    return replace(method_spec, label=f"{TUNED}:{method}", fold_configs=chosen)


def _describe(
    method: str,
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
    whole: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Facts and settings of a method; the module of another distribution runs in a worker."""
    question: dict[str, Any] = {"method": method, "dataset": dataset, "preset": preset}
    question |= {"settings": dict(settings), "whole": [dict(one) for one in whole]}
    built_in = find_methods()[method].entry is None
    if built_in:
        found = describe(**question)
    else:
        try:
            found = run_worker("describe", json.dumps(question))
        except WorkerFailedError as error:
            raise BenchError(f"method '{method}' cannot be imported: {error}") from error
    facts = {"built_in": built_in, **found["facts"]}
    for name in ("settings", "harness"):
        facts[name] = tuple(facts[name])
    return {**found, "facts": MethodFacts(**facts)}
