"""Files that the page on adding a method shows, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "adding-a-method.md"


def shown_files() -> dict[str, str]:
    """Content by file name: each block of Python that follows the name of a file."""
    text = PAGE.read_text(encoding="utf-8")
    return dict(
        re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    )


def shown_project() -> str:
    """The ``pyproject.toml`` of the page."""
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "the page shows no TOML"
    return found[1]


def write_shown(folder: Path) -> Path:
    """Write all files of the page, the project's too, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**shown_files(), "pyproject.toml": shown_project()}.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder
