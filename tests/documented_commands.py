"""Blocks and commands that README and the pages of docs show, with the place of each."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = (
    REPOSITORY / "README.md",
    *sorted(
        page
        for page in DOCS.rglob("*.md")
        # What the build of the site writes is not written by hand.
        if not any(part.startswith("_") for part in page.relative_to(DOCS).parts)
    ),
)
_FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
_INDENTED = re.compile(r"(?:^    (?:bench|mlflow) .*\n)+", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`((?:bench|make|pip)\s[^`]+|--[a-z][^`]*)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes
    ----------
    page
        File name of the page.
    language
        As written behind the fence; empty for none.
    text
        Its lines, without the indent of the list that it stands in.
    """

    page: str
    language: str
    text: str

    @property
    def title(self) -> str:
        """Page, language and first words, which no other block shares."""
        start = " ".join(re.sub(r"#.*", "", self.text).split())
        return f"{self.page}: {self.language or 'plain'}: {start[:50].strip()}"

    @property
    def commands(self) -> list[str]:
        """Shell commands of the block, without their comments."""
        if self.language not in {"", "sh", "bash"}:
            return []
        lines = [re.sub(r"\s+#.*", "", line).strip() for line in self.text.splitlines()]
        return [line for line in lines if re.match(r"(bench|make|pip|mlflow) ", line)]


def blocks() -> list[Block]:
    """Every fenced block, and the indented ones that hold commands."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCED.finditer(text):
            if match["language"].startswith("{"):
                continue  # a directive of the site; notebooks run when the site is built
            content = textwrap.dedent(match["text"])
            found.append(Block(page.name, match["language"], content))
        rest = _FENCED.sub("", text)
        found += [Block(page.name, "", textwrap.dedent(part)) for part in _INDENTED.findall(rest)]
    return found


def block(title: str) -> Block:
    """The block of a title."""
    (found,) = [one for one in blocks() if one.title == title]
    return found


def commands() -> list[str]:
    """Every command of a block once, in the order of the pages."""
    return list(dict.fromkeys(command for one in blocks() for command in one.commands))


def spans() -> list[tuple[str, str]]:
    """(page, text) of commands and options that are shown within a sentence or a table."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        rest = _FENCED.sub("", page.read_text(encoding="utf-8"))
        found.update({(page.name, " ".join(text.split())): None for text in _SPAN.findall(rest)})
    return list(found)


def words(command: str, home: Path) -> list[str]:
    """Words of a command as a shell would hand them over."""
    return [re.sub(r"^~(?=/|$)", str(home), word) for word in shlex.split(command)]
