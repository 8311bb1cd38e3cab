"""Methods in a comparison with their settings, permuted-image controls, and oracles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import BenchError, ConfigError, DataError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.execute.checkpoints import is_one_file
from bench.execute.encoders import can_be_random
from bench.execute.request import FoldSettings
from bench.method_references import (
    RANDOM,
    SHUFFLED,
    ensemble_of,
    is_handed,
    is_own,
    split_encoder,
    split_ensemble,
)
from bench.own_methods import prefix
from bench.registry import InstalledMethod, check_installed, find_methods
from bench.worker.describe import describe
from bench.worker.process import WorkerFailedError, run_worker

RELEASED = "released"
TUNED = "tuned"


@dataclass(frozen=True)
class MethodFacts:
    """Facts about a method that the harness can use without importing its module.

    Attributes
    ----------
    built_in
        Whether it is part of this package.
    name
        Name of its class.
    needs_image
        Whether it reads images.
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
        Modules of the harness that it imports; see :func:`bench.sources.harness_imports`.
    """

    built_in: bool
    name: str
    needs_image: bool
    control: bool
    has_presets: bool
    released: bool
    settings: tuple[str, ...]
    code: Mapping[str, str]
    harness: tuple[str, ...]


@dataclass(frozen=True)
class MethodSpec:
    """One row of a comparison: a method, its permuted-image control, or an oracle.

    Attributes
    ----------
    label
        The row's name: ``mclstexp``, ``shuffled:mclstexp``, ``depth``.
    method
        Name of the method, or a reference to one that is not installed (see
        :mod:`bench.method_references`); None for an oracle.
    shuffled
        Whether test images are permuted among the spots.
    random
        Whether the row is the control of an encoder: the same network with random weights.
    config
        All settings of the method, as JSON has them.
    facts
        Facts about the method; None for an oracle.
    changes
        Settings that differ from the preset's: by name, the preset's value and the one used.
    checkpoint
        Checkpoint of the method's authors, loaded instead of fitting.
    fold_configs
        Settings by fold where they differ between folds, as after tuning; no other folds are run.
    fold_checkpoints
        Checkpoints by fold, where there is one a fold.
    members
        Rows that an ensemble averages; an ensemble has no method of its own.
    """

    label: str
    method: str | None
    shuffled: bool = False
    random: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: MethodFacts | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    fold_configs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    fold_checkpoints: Mapping[int, Path] = field(default_factory=dict)
    members: tuple[MethodSpec, ...] = ()

    def in_fold(self, fold: int) -> MethodSpec:
        """The same with the settings, and the checkpoint, of one fold."""
        return replace(
            self,
            config=self.fold_configs.get(fold, self.config),
            fold_configs={},
            checkpoint=self.fold_checkpoints.get(fold, self.checkpoint),
            fold_checkpoints={},
        )

    @property
    def kind(self) -> str:
        """``oracle``, ``control`` or ``method``."""
        if self.members:
            return "method"
        if self.facts is None:
            return "oracle"
        control = self.shuffled or self.random or self.facts.control
        return "control" if control else "method"

    @property
    def needs_image(self) -> bool:
        """Whether it reads images."""
        if self.members:
            return any(member.needs_image for member in self.members)
        return self.facts is not None and self.facts.needs_image

    @property
    def name(self) -> str | None:
        """Name of the method in stored results: the row's label for one that is not installed.

        No path, and no name of an installed method, which a stored model would be loaded by.
        """
        if self.method is None or not is_own(self.method):
            return self.method
        label, _ = split_encoder(self.label)
        kind, _, rest = label.partition(":")
        return rest if kind in {SHUFFLED, RELEASED, TUNED} else label

    def without_shuffling(self) -> MethodSpec:
        """The method that this is the permuted-image control of."""
        return replace(self, label=self.label.removeprefix(f"{SHUFFLED}:"), shuffled=False)

    @property
    def has_presets(self) -> bool:
        """Whether its settings depend on the preset."""
        if self.members:
            return any(member.has_presets for member in self.members)
        return self.facts is not None and self.facts.has_presets


def resolve_methods(
    methods: Sequence[str],
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
    *,
    encoders: Sequence[str] = (),
    random_encoders: bool = True,
) -> list[MethodSpec]:
    """Resolve the names of a request to methods with their settings.

    Parameters
    ----------
    methods
        Names of methods and oracles, references to methods (see :mod:`bench.method_references`),
        ``mean:METHOD+METHOD`` for the mean of their stored predictions, ``shuffled:METHOD``, or
        ``shuffled`` for the permuted-image controls of all methods beside
        it that read images.
    dataset, preset
        Choose a method's settings.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting`` for one.
    encoders, random_encoders
        See :class:`bench.execute.request.Request`.

    Raises
    ------
    BenchError
        An unknown name, a setting that no method has, a control of a method without images, or an
        unknown encoder.
    """
    known = find_methods()
    described: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        method, _ = split_encoder(name)
        if not is_own(method):
            check_installed(method, known, [*ORACLES, SHUFFLED])
        if name not in described:
            described[name] = _describe(name, dataset, preset, settings)
        return described[name]

    if encoders:
        methods = _sweep(methods, of, encoders, random_encoders)
    labels: list[str] = []
    for label in methods:
        if label == SHUFFLED:
            twins = [
                f"{SHUFFLED}:{name}"
                for name in methods
                if _is_method(name, known) and of(name)["facts"].needs_image
            ]
            if not twins:
                raise BenchError(
                    "'shuffled' is the control of a method that uses images; name one beside"
                    " it, or write shuffled:METHOD"
                )
            labels += twins
        else:
            labels.append(label)
    labels = list(dict.fromkeys(labels))
    if not labels:
        raise BenchError("no method named; see 'bench list methods'")

    def spec_of(label: str) -> MethodSpec:
        if label in ORACLES:
            return MethodSpec(label, None)
        if split_ensemble(label):
            return _ensemble([spec_of(member) for member in split_ensemble(label)])
        shuffled = label.startswith(f"{SHUFFLED}:")
        name = label.removeprefix(f"{SHUFFLED}:")
        description = of(name)
        method, encoder = split_encoder(name)
        row = _row_name(method, description["facts"], known)
        if "encoder" in description["changes"]:
            encoder = encoder or str(description["config"]["encoder"])
        row += f"[{encoder}]" if encoder else ""
        if shuffled and not description["facts"].needs_image:
            raise BenchError(
                f"{SHUFFLED}:{row}: {row} does not use images, so shuffling changes nothing"
            )
        return MethodSpec(
            label=f"{SHUFFLED}:{row}" if shuffled else row,
            method=method,
            shuffled=shuffled,
            random=encoder.startswith(RANDOM),
            config=description["config"],
            facts=description["facts"],
            changes=description["changes"],
        )

    specs = [spec_of(label) for label in labels]
    _check_rows_differ(specs)
    unused = set(settings).difference(*(description["used"] for description in described.values()))
    if unused:
        names = {
            name for description in described.values() for name in description["facts"].settings
        }
        raise UnknownNameError("setting", sorted(unused)[0], names or {"(none)"})
    return specs


def _ensemble(members: Sequence[MethodSpec]) -> MethodSpec:
    """Row that averages the stored predictions of others.

    Raises
    ------
    BenchError
        A member has another scale or reads permuted images, or is named twice.
    """
    label = ensemble_of([member.label for member in members])
    for member in members:
        if member.members or member.kind == "oracle" or member.shuffled:
            raise BenchError(f"{label}: {member.label} cannot be averaged; name methods alone")
    if len({member.label for member in members}) < len(members):
        raise BenchError(f"{label}: names a member twice")
    return MethodSpec(
        label,
        None,
        config={"members": {member.label: dict(member.config) for member in members}},
        changes={
            f"{member.label}.{name}": change
            for member in members
            for name, change in member.changes.items()
        },
        members=tuple(members),
    )


def released_spec(
    method: str, checkpoint: Path, dataset: str, preset: str, settings: Mapping[str, Any]
) -> MethodSpec:
    """Method that loads an authors' checkpoint instead of fitting; it has its own row.

    Raises
    ------
    BenchError
        An unknown method or setting, a method without released checkpoints, a missing file.
    """
    if is_one_file(checkpoint) and not checkpoint.is_file():
        raise DataError(f"{checkpoint}: no such checkpoint file")
    if is_twin(method) or method in ORACLES or split_ensemble(method):
        raise BenchError(
            f"{method}: a checkpoint belongs to a method, not to a control, oracle or ensemble"
        )
    (method_spec,) = resolve_methods([method], dataset, preset, settings)
    assert method_spec.facts is not None  # only oracles have none
    if not method_spec.facts.released:
        raise ConfigError(f"{method_spec.label} has no released checkpoints to read")
    label = f"{RELEASED}:{method_spec.label}"
    return replace(
        method_spec, label=label, checkpoint=checkpoint if is_one_file(checkpoint) else None
    )


def is_twin(method: str) -> bool:
    """Whether a request's name asks for a permuted-image control."""
    return method == SHUFFLED or method.startswith(f"{SHUFFLED}:")


def tuned_spec(
    method: str,
    fold_settings: Mapping[int, FoldSettings],
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
) -> MethodSpec:
    """Method with different settings in every fold; it has its own row."""
    (method_spec,) = resolve_methods([method], dataset, preset, settings)
    whole = _describe(
        method, dataset, preset, settings, [of.config for of in fold_settings.values()]
    )
    chosen = dict(zip(fold_settings, whole["whole"], strict=True))
    return replace(method_spec, label=f"{TUNED}:{method_spec.label}", fold_configs=chosen)


def _row_name(method: str, facts: MethodFacts, known: Mapping[str, InstalledMethod]) -> str:
    """Label of a row; the name of an installed method is used for that method alone."""
    if not is_own(method):
        return method
    taken = facts.name in known or facts.name in ORACLES
    return f"{prefix(method)}:{facts.name}" if taken else facts.name


def _is_method(name: str, known: Mapping[str, InstalledMethod]) -> bool:
    method, _ = split_encoder(name)
    return method in known or is_own(method)


def _sweep(
    methods: Sequence[str],
    describe_method: Callable[[str], Mapping[str, Any]],
    encoders: Sequence[str],
    random_encoders: bool,
) -> list[str]:
    """Names of methods, those with an encoder once for each encoder and its random control."""
    wanted = [
        name
        for encoder in encoders
        for name in (encoder, f"{RANDOM}{encoder}")
        if name == encoder or (random_encoders and can_be_random(encoder))
    ]
    rows: list[str] = []
    swept = False
    for label in methods:
        method = label.removeprefix(f"{SHUFFLED}:")
        plain = label != SHUFFLED and label not in ORACLES and not split_encoder(label)[1]
        plain = plain and not split_ensemble(label)
        if plain and "encoder" in describe_method(method)["facts"].settings:
            rows += [f"{label}[{encoder}]" for encoder in wanted]
            swept = True
        else:
            rows.append(label)
    if not swept:
        raise ConfigError("--encoder: none of the methods has an image encoder to choose")
    return rows


def _check_rows_differ(specs: Sequence[MethodSpec]) -> None:
    methods: dict[str, str | None] = {}
    for spec in specs:
        if methods.setdefault(spec.label, spec.method) != spec.method:
            raise BenchError(
                f"two methods are called '{spec.label}'; change the attribute 'name' of one of the"
                " classes"
            )


def _describe(
    method: str,
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
    whole: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Facts and settings of a method; a worker imports modules from outside this package."""
    method, encoder = split_encoder(method)
    question: dict[str, Any] = {"method": method, "dataset": dataset, "preset": preset}
    question |= {"settings": dict(settings), "whole": [dict(one) for one in whole]}
    question["encoder"] = encoder
    known = find_methods().get(method)
    built_in = known is not None and known.entry is None
    # A class passed to bench.run exists in this process, where its source can be found.
    if built_in or is_handed(method):
        description = describe(**question)
    else:
        try:
            description = run_worker("describe", json.dumps(question))
        except WorkerFailedError as error:
            where = f"{method}:" if is_own(method) else f"method '{method}'"
            raise BenchError(f"{where} cannot be imported: {error}") from error
    facts = {"built_in": built_in, **description["facts"]}
    for name in ("settings", "harness"):
        facts[name] = tuple(facts[name])
    return {**description, "facts": MethodFacts(**facts)}
