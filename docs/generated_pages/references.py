"""References to a name by the module that defines it, where a page has it under a public module."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import bench
import bench.api
import bench.readers

FACES = (bench, bench.api, bench.readers)
"""Modules whose names have pages."""


def resolve(app: Any, env: Any, node: Any, shown: Any) -> Any:
    """Link to the page of the same object; plain text for an object that has none.

    A name that does not exist is left to Sphinx, which warns of it.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    for name in (target, f"{node.get('py:module')}.{target}"):
        try:
            thing = _find(name)
        except (ImportError, AttributeError):
            continue
        for face in FACES:
            short = name.rpartition(".")[2]
            if short in face.__all__ and getattr(face, short) is thing:
                python = env.get_domain("py")
                full = f"{face.__name__}.{short}"
                return python.resolve_xref(
                    env, node["refdoc"], app.builder, node["reftype"], full, node, shown
                )
        return shown
    return None


def _find(name: str) -> Any:
    """Module or object of a dotted name that begins with ``bench.``."""
    module, _, rest = name.partition(".")
    if module != "bench":
        raise ImportError(name)
    thing: Any = bench
    for word in filter(None, rest.split(".")):
        module = f"{module}.{word}"
        try:
            thing = getattr(thing, word)
        except AttributeError:
            thing = import_module(module)
    return thing
