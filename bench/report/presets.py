"""Preset of a run in tables, with a mark and a footnote for changed settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.files import one_line

MARK = "*"
NO_PRESET = "-"

_MOST = 12


def shown_preset(facts: Mapping[str, Any]) -> str:
    """Name of a run's preset, with a star where its settings differ from the preset's.

    ``default*`` denotes changed settings of a method without presets.

    Parameters
    ----------
    facts
        Contents of ``run.json``.
    """
    preset = str(facts["preset"])
    if not _changes(facts):
        return preset
    return f"{'default' if preset == NO_PRESET else preset}{MARK}"


def plain_preset(shown: str) -> str:
    """Preset in a name from :func:`shown_preset`."""
    return shown.removesuffix(MARK)


def used_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the preset's, each with the value used.

    If tuning chose different values in the folds, the value is a mapping from fold to value.
    """
    return {name: used for name, (_, used) in _changes(facts).items()}


def preset_note(facts: Mapping[str, Any], *, key: bool = False) -> str:
    """Footnote on the changed settings of a run; empty where there is none.

    Parameters
    ----------
    facts
        Contents of ``run.json``.
    key
        Whether the note names the run's key, because other rows have the same label.
    """
    changes = _changes(facts)
    if not changes:
        return ""
    preset, of_folds = str(facts["preset"]), _of_folds(facts)
    source = "default" if preset == NO_PRESET else preset
    listed = [
        f"{one_line(name, 60)}"
        f" {'by fold' if name in of_folds else _text(used)} ({source}: {_text(base)})"
        for name, (base, used) in changes.items()
    ]
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    label = f"{facts['label']} (run {facts['key'][:12]})" if key else str(facts["label"])
    begin = "default settings" if preset == NO_PRESET else f"preset {preset}"
    how = ", tuned in each fold:" if facts.get("tuned") else " with"
    return f"{label}: {shown_preset(facts)} = {begin}{how} {', '.join(listed[:_MOST])}{more}."


def preset_notes(runs_facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Footnotes on the changed settings of several runs, in the order of the runs."""
    shown = [(facts["label"], shown_preset(facts)) for facts in runs_facts]
    notes = [
        preset_note(facts, key=shown.count(name) > 1)
        for facts, name in zip(runs_facts, shown, strict=True)
    ]
    return list(filter(None, notes))


def small_preset_notes(shown: Iterable[str]) -> list[str]:
    """Footnotes on presets that are not the authors' settings.

    Parameters
    ----------
    shown
        Presets of all rows, as :func:`shown_preset` gives them.
    """
    presets = {plain_preset(preset) for preset in shown} - {NO_PRESET, "default"}
    mixed = " and not comparable with the authors' rows."
    return [
        f"Preset {preset}: small networks and few epochs for machines without a GPU; not the"
        f" authors' settings{mixed if 'authors' in presets else '.'}"
        for preset in sorted(presets - {"authors"})
    ]


def _changes(facts: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By setting: the preset's value, and the value used or, if folds differ, those by fold."""
    recorded = facts.get("changes")  # absent from results of earlier versions
    recorded_changes = {
        str(name): (pair[0], pair[1])
        for name, pair in (recorded.items() if isinstance(recorded, Mapping) else ())
        if isinstance(pair, list | tuple) and len(pair) == 2
    }
    tuned = _tuned(facts)
    if not tuned:
        return recorded_changes
    config = facts.get("config")
    of_preset = dict(config) if isinstance(config, Mapping) else {}
    of_preset |= {name: base for name, (base, _) in recorded_changes.items()}
    of_folds = _of_folds(facts)
    changes = {}
    for name in next(iter(tuned.values())):
        base = of_preset.get(name)
        values = [of_fold.get(name) for of_fold in tuned.values()]
        if any(value != base for value in values):
            changes[name] = (base, of_folds.get(name, values[0]))
    return changes


def _of_folds(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings with several values from tuning, by fold."""
    tuned = _tuned(facts)
    settings = {}
    for name in next(iter(tuned.values()), {}):
        values = {fold: config.get(name) for fold, config in tuned.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            settings[name] = values
    return settings


def _tuned(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tuned = facts.get("tuned")
    pairs = tuned.items() if isinstance(tuned, Mapping) else ()
    return {str(fold): config for fold, config in pairs if isinstance(config, Mapping)}


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return one_line(value if isinstance(value, str) else json.dumps(value), 60)
