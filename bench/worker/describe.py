"""Facts about a method for the harness, collected in a process that may import its module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bench.errors import ConfigError
from bench.files import one_line
from bench.method import Method, MethodConfig
from bench.method_references import RANDOM
from bench.own_methods import own_code
from bench.registry import find_methods, load_method
from bench.settings import changed_settings, own_settings


def describe(
    method: str,
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
    whole: Sequence[Mapping[str, Any]] = (),
    encoder: str = "",
) -> dict[str, Any]:
    """Facts and settings of a method, as JSON.

    Parameters
    ----------
    method
        Name of the method, or a reference to one; see :mod:`bench.method_references`.
    dataset, preset
        Choose the settings to begin with.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting`` for one;
        those of other methods are left alone.
    whole
        Complete settings to be checked besides, as tuning finds them.
    encoder
        Image encoder of ``METHOD[ENCODER]``; empty for that of the settings.

    Returns
    -------
    dict
        ``facts``: fields of :class:`bench.execute.method_specs.MethodFacts`; ``config``: all
        settings; ``used``: keys of `settings` that are the method's; ``changes``: by setting, the
        preset's value and the one used; ``whole``: as given, complete.

    Raises
    ------
    BenchError
        The module cannot be imported, the preset or a setting does not exist, or a value is not
        allowed.
    """
    kind = load_method(method)
    used: set[str] = set()
    changes = own_settings(kind, settings, used, method)
    if encoder:
        if "encoder" not in kind.Config.model_fields:
            raise ConfigError(f"{kind.name}[{encoder}]: {kind.name} has no encoder to choose")
        changes["encoder"] = encoder.removeprefix(RANDOM)
        if encoder.startswith(RANDOM):
            changes["weights"] = "none"
    config = kind.configure(dataset, preset, changes)
    code, harness = own_code(method, kind)
    installed = find_methods().get(method)
    if installed is not None and installed.entry is not None and installed.entry.dist is not None:
        code[f"dist {installed.entry.dist.name}"] = installed.entry.dist.version
    return {
        "facts": {
            "name": kind.name,
            "needs_image": kind.needs_image,
            "control": kind.control,
            "has_presets": any(kind.presets.values()),
            "released": _overrides(kind, "from_released"),
            "settings": list(kind.Config.model_fields),
            "code": code,
            "harness": sorted(harness),
        },
        "config": _values(config),
        "used": sorted(used),
        "changes": changed_settings(kind, dataset, preset, config),
        "whole": [_values(_checked(kind, values)) for values in whole],
    }


def _values(config: MethodConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _checked(kind: type[Method], values: Mapping[str, Any]) -> MethodConfig:
    try:
        return kind.Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"settings of {kind.name}: {one_line(error)}") from error


def _overrides(kind: type[Method], name: str) -> bool:
    return getattr(kind, name).__func__ is not getattr(Method, name).__func__
