"""What is known of the methods and datasets that a site shows."""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from bench.errors import BenchError
from bench.evaluate.oracles import ORACLES
from bench.registry import InstalledMethod, dataset_card, find_datasets, find_methods

_PACKAGE = "spotbench"


def about_methods() -> dict[str, InstalledMethod]:
    """Installed methods by name."""
    return find_methods()


def about_method(name: str, installed: dict[str, InstalledMethod]) -> dict[str, str]:
    """Description with its citation, source and licence of a method.

    Returns
    -------
    dict
        ``summary``, ``text`` (the rest, with the citation), ``source``, ``licence``; empty texts
        where nothing is known.
    """
    method = installed.get(name)
    if name in ORACLES:
        what = "An oracle: it reads the truth on purpose, to show what a score rewards."
        return {"summary": what, "text": "", "source": _PACKAGE, "licence": _licence(_PACKAGE)}
    if method is None:
        what = "This method is not installed where the site was made."
        return {"summary": what, "text": "", "source": "", "licence": ""}
    if method.folder is None:
        of = method.source
        return {"summary": method.summary, "text": "", "source": of, "licence": _licence(of)}
    path = method.folder / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, UnicodeDecodeError):
        text = method.summary
    summary, _, rest = text.strip().partition("\n")
    return {
        "summary": summary,
        "text": rest.strip(),
        "source": _PACKAGE,
        "licence": _licence(_PACKAGE),
    }


def about_dataset(name: str) -> dict[str, str]:
    """Title, citation and licence of a dataset; empty texts where its card is not here."""
    unknown = {"title": "", "citation": "", "licence": ""}
    if name not in find_datasets():
        return unknown
    try:
        card = dataset_card(name)
    except BenchError:
        return unknown
    return {"title": card.title, "citation": card.citation, "licence": card.licence}


def _licence(distribution: str) -> str:
    try:
        told: Any = metadata(distribution)
    except (PackageNotFoundError, ValueError):
        return ""
    known = [told[name] for name in ("License-Expression", "License") if name in told]
    return str(known[0]).splitlines()[0][:100] if known and known[0] else ""
