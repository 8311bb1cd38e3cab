"""Settings of methods: from the values of a request to a configuration, and against a preset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from bench.method import Method, MethodConfig
from bench.method_references import absolute

_NONE = {"", "none", "null", "~"}
"""Spellings of None, in lower case."""


def as_none(annotation: Any, value: Any) -> Any:
    """None where a text spells it and the annotation allows it, otherwise the value.

    ``none``, ``null``, ``~`` in any case and the empty text mean None. A text that the annotation
    has as a choice of its own, such as ``none`` among the augmentations, remains that choice.

    Parameters
    ----------
    annotation
        Annotation of a field, such as ``int | None``.
    value
        Value given for the field.
    """
    if not isinstance(value, str) or value.strip().lower() not in _NONE:
        return value
    members = set(_members(annotation))
    return None if NoneType in members and value not in members else value


def _members(annotation: Any) -> Iterator[Any]:
    """Types that an annotation allows, and its choices as values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in {Union, UnionType}:
        for one in get_args(annotation):
            yield from _members(one)
    elif origin is Literal:
        yield from (NoneType if value is None else value for value in get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (member.value for member in annotation)
    else:
        yield NoneType if annotation is None else origin or annotation


def own_settings(
    kind: type[Method], settings: Mapping[str, Any], used: set[str], reference: str = ""
) -> dict[str, Any]:
    """A request's settings that concern one method.

    Parameters
    ----------
    kind
        The method.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting``, which takes
        precedence.
    used
        Receives the keys that concern the method.
    reference
        What the request calls the method, where that is not its name.

    Returns
    -------
    dict of str to Any
        Values by setting; the settings of ``method.setting`` may be unknown.
    """
    shared, own = {}, {}
    for key, value in settings.items():
        owner, _, name = key.rpartition(".")
        if owner == kind.name or (owner and absolute(owner) == reference):
            own[name] = value
        elif not owner and name in kind.Config.model_fields:
            shared[name] = value
        else:
            continue
        used.add(key)
    fields = kind.Config.model_fields
    return {
        name: as_none(fields[name].annotation, value) if name in fields else value
        for name, value in {**shared, **own}.items()
    }


def changed_settings(
    kind: type[Method], dataset: str, preset: str, config: MethodConfig
) -> dict[str, list[Any]]:
    """Settings that differ from those of the preset on the dataset.

    Returns
    -------
    dict of str to list
        By setting: the preset's value and the value used, as JSON has them. Empty where the
        settings are those of the preset.
    """
    own = config.model_dump(mode="json")
    # A setting without a default has no value in any preset.
    required = {n: own[n] for n, of in kind.Config.model_fields.items() if of.is_required()}
    of_preset = kind.configure(dataset, preset, required).model_dump(mode="json")
    return {
        name: [of_preset.get(name), value]
        for name, value in own.items()
        if of_preset.get(name) != value
    }
