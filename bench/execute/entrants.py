"""What takes part in a comparison, from the names that a user typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.data.card import first_fault
from bench.errors import BenchError, ConfigError, DataError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.execute.request import FoldSettings
from bench.files import read_yaml
from bench.method import Method, MethodConfig
from bench.registry import find_methods, method_class

SHUFFLED = "shuffled"
RELEASED = "released"
TUNED = "tuned"


@dataclass(frozen=True)
class Entrant:
    """Something that is run and gets a row: a method, a shuffled twin, or an oracle.

    Attributes
    ----------
    label
        The row's name: ``mclstexp``, ``shuffled:mclstexp``, ``depth``.
    method
        Name of the method, None for an oracle.
    shuffled
        Whether test images are dealt to the wrong spots.
    config
        Settings of the method.
    checkpoint
        Checkpoint of the method's authors that takes the place of a fit.
    fold_configs
        Settings by fold where they differ, as after tuning; then there are no other folds.
    """

    label: str
    method: str | None
    shuffled: bool = False
    config: MethodConfig = field(default_factory=MethodConfig)
    checkpoint: Path | None = None
    fold_configs: Mapping[int, MethodConfig] = field(default_factory=dict)

    def in_fold(self, fold: int) -> Entrant:
        """The same with the settings of one fold."""
        return replace(self, config=self.fold_configs.get(fold, self.config), fold_configs={})

    @property
    def kind(self) -> str:
        """``oracle``, ``control`` or ``method``."""
        if self.method is None:
            return "oracle"
        return "control" if self.shuffled or method_class(self.method).control else "method"

    def without_shuffling(self) -> Entrant:
        """The method itself, of which this is the shuffled twin."""
        return replace(self, label=str(self.method), shuffled=False)

    @property
    def has_presets(self) -> bool:
        """Whether its settings depend on the preset."""
        return self.method is not None and any(method_class(self.method).presets.values())


def find_entrants(
    methods: Sequence[str], dataset: str, preset: str, settings: Mapping[str, Any]
) -> list[Entrant]:
    """What the names of a request mean, each with its settings.

    Parameters
    ----------
    methods
        Names of methods and oracles, ``shuffled:METHOD``, or ``shuffled`` for the twins of all
        methods beside it that look at images.
    dataset, preset
        Choose a method's settings.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting`` for one.

    Raises
    ------
    BenchError
        An unknown name, a setting that no method has, or a twin that changes nothing.
    """
    known = find_methods()
    labels: list[str] = []
    for label in methods:
        if label == SHUFFLED:
            twins = [
                f"{SHUFFLED}:{name}"
                for name in methods
                if name in known and method_class(name).needs_image
            ]
            if not twins:
                raise BenchError(
                    "'shuffled' is the twin of a method that looks at images; name one beside"
                    " it, or write shuffled:METHOD"
                )
            labels += twins
        else:
            labels.append(label)
    labels = list(dict.fromkeys(labels))
    if not labels:
        raise BenchError("no method named; see 'bench list methods'")

    used: set[str] = set()
    entrants = []
    for label in labels:
        if label in ORACLES:
            entrants.append(Entrant(label, None))
            continue
        shuffled = label.startswith(f"{SHUFFLED}:")
        name = label.removeprefix(f"{SHUFFLED}:")
        if name not in known:
            raise UnknownNameError("method", name, [*known, *ORACLES, SHUFFLED])
        kind = method_class(name)
        if shuffled and not kind.needs_image:
            raise BenchError(f"{label}: {name} does not look at images, shuffling changes nothing")
        entrants.append(
            Entrant(label, name, shuffled, _configure(kind, dataset, preset, settings, used))
        )
    unused = set(settings) - used
    if unused:
        fields = {
            key for e in entrants for key in type(e.config).model_fields if e.method is not None
        }
        raise UnknownNameError("setting", sorted(unused)[0], fields or {"(none)"})
    return entrants


class _SettingsFile(BaseModel):
    """A method with its settings, as tuning writes them; what else stands there is for people."""

    method: str
    config: dict[str, Any]
    preset: str = "authors"


def read_settings(path: Path) -> tuple[str, str, dict[str, Any]]:
    """A method, its preset and its settings from a YAML file such as tuning's ``best.yaml``.

    Returns
    -------
    tuple
        The method's name, the preset, and values by ``method.setting``.

    Raises
    ------
    DataError
        The file is missing, not YAML, or names no method or settings.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a settings file, which has the fields method and config")
    try:
        found = _SettingsFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}") from error
    values = {f"{found.method}.{key}": value for key, value in found.config.items()}
    return found.method, found.preset, values


def released_entrant(
    method: str, checkpoint: Path, dataset: str, preset: str, settings: Mapping[str, Any]
) -> Entrant:
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
    kind = method_class(method)
    if kind.from_released.__func__ is Method.from_released.__func__:  # type: ignore[attr-defined]
        raise ConfigError(f"{method} has no released checkpoints to read")
    (entrant,) = find_entrants([method], dataset, preset, settings)
    return replace(entrant, label=f"{RELEASED}:{method}", checkpoint=checkpoint)


def tuned_entrant(
    method: str,
    found: Mapping[int, FoldSettings],
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
) -> Entrant:
    """A method with settings of its own for every fold; it gets a row of its own."""
    (entrant,) = find_entrants([method], dataset, preset, settings)
    kind = method_class(method)
    chosen = {fold: kind.Config.model_validate(of.config) for fold, of in found.items()}
    return replace(entrant, label=f"{TUNED}:{method}", fold_configs=chosen)


def _configure(
    kind: type[Method],
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
    used: set[str],
) -> MethodConfig:
    changes = {}
    for key, value in settings.items():
        owner, _, field_name = key.rpartition(".")
        if owner == kind.name or (not owner and field_name in kind.Config.model_fields):
            changes[field_name] = value
            used.add(key)
    return kind.configure(dataset, preset, changes)
