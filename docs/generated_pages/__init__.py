"""Sphinx extension: pages that are made from the program, its models, its cards and notebooks.

Everything is written into ``docs/_generated``, which Git ignores, before Sphinx reads its sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.files import atomic_write

from . import commands, datasets, fields, figures, references

FOLDER = "_generated"


def write_pages(folder: Path) -> None:
    """Write the commands, the fields of files, the datasets, and the figures into a folder."""
    texts = {
        "commands.md": commands.page(),
        "cards.md": datasets.table(),
        **{f"{name}.md": text for name, text in fields.pages().items()},
        **{f"{name}.schema.json": text for name, text in fields.schemas().items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_write(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    for name, draw in figures.FIGURES.items():
        with atomic_write(folder / f"{name}.svg") as path:
            draw(path)


def setup(app: Any) -> dict[str, Any]:
    """Register the writing of the pages; called by Sphinx."""
    from . import notebooks  # needs the extra "docs", which the other pages and their tests do not

    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / FOLDER))
    app.connect("builder-inited", notebooks.fill_cache)
    app.connect("missing-reference", references.resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
