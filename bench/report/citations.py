"""Names and references of methods as papers print them, read from the methods' own docstrings.

The docstring of a method's module begins with its name as the authors write it, and cites its paper
as ``Authors, "Title", where and when.``; see :func:`read_citation`.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.errors import BenchError
from bench.files import atomic_write
from bench.method_references import split_encoder
from bench.registry import find_methods
from bench.report.latex import escaped

MARK = "% Written by 'bench tables' or 'bench cite'."
"""First line of a bibliography of this program, which may be overwritten."""

_CITED = re.compile(r'^(?P<authors>[A-Z][^"]*?),\s"(?P<title>[^"]+?),?",?\s(?P<where>.+?)\.?$')
_ARXIV = re.compile(r"\barXiv[: ](\d{4}\.\d{4,5})")
_YEAR = re.compile(r"\b(19|20)\d\d\b")
_PREFIXES = ("released:", "tuned:", "shuffled:")


@dataclass(frozen=True)
class Citation:
    """A method's paper.

    Attributes
    ----------
    key
        Key of the entry, such as ``min2024multimodal``: author, year, first word.
    authors
        Authors as BibTeX separates them.
    title, where, year, doi
        Title, place of publication, year and identifier; empty where none is given.
    """

    key: str
    authors: str
    title: str
    where: str
    year: str
    doi: str = ""

    def _escaped_authors(self) -> str:
        """Authors; braces keep the name of a group together."""
        text = escaped(self.authors)
        return f"{{{text}}}" if text and "," not in text and " and " not in text else text

    def entry(self) -> str:
        """The entry of a ``.bib`` file."""
        fields = {
            "author": self._escaped_authors(),
            "title": f"{{{escaped(self.title)}}}",
            "howpublished": escaped(self.where),
            "year": self.year,
            "doi": self.doi,
        }
        told = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
        return f"@misc{{{self.key},\n{told}}}\n"


@dataclass(frozen=True)
class PrintedMethod:
    """A method as a paper names it: its ``name``, and its ``citation`` where it has one."""

    name: str
    citation: Citation | None = None


def read_citation(method: str, docstring: str) -> PrintedMethod:
    r"""Name and reference of a method in the docstring of its module.

    Parameters
    ----------
    method
        Its name in commands.
    docstring
        First line ``NAME: ...``, and a paragraph ``Authors, "Title", where (year).``

    Examples
    --------
    >>> text = 'ST-Net: an encoder.\n\nHe B. et al., "A title", Nature 4, 827-834 (2020).'
    >>> read_citation("stnet", text).citation.key
    'he2020a'
    """
    first = docstring.strip().partition("\n")[0]
    name, colon, _ = first.partition(":")
    printed = name if colon and _plain(name) == _plain(method) else method
    for paragraph in docstring.split("\n\n"):
        # What follows the reference in its paragraph is about the method.
        text = " ".join(paragraph.split())
        match = _CITED.match(re.sub(r", which .*", "", text))
        if match:
            return PrintedMethod(printed, _citation(**match.groupdict()))
    return PrintedMethod(printed)


def _citation(authors: str, title: str, where: str) -> Citation:
    number = _ARXIV.search(where)  # it may look like a year
    year = _YEAR.search(where.replace(number[0], "") if number else where)
    place = re.sub(r"\s*\((19|20)\d\d\)", "", where).strip(" ,")
    names = [_author(name) for name in re.sub(r"\s+et al\.?$", "", authors).split(", ")]
    others = ["others"] if re.search(r"\bet al\.?$", authors) else []
    return Citation(
        key=citation_key(authors, year[0] if year else "", title),
        authors=" and ".join([*names, *others]),
        title=title,
        where=place,
        year=year[0] if year else "",
    )


def citation_key(authors: str, year: str, title: str) -> str:
    """Key of an entry: first author, year, first word of the title."""
    return f"{_plain(authors.split()[0])}{year}{_plain(title.split()[0])}"


def _author(name: str) -> str:
    """Name with a comma: ``Pang M.`` is ``Pang, M.`` in BibTeX."""
    family, _, given = name.rpartition(" ")
    return f"{family}, {given}" if family else name


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


@cache
def printed_method(label: str) -> PrintedMethod:
    """Name and reference of an installed method of this package; others keep their label.

    Parameters
    ----------
    label
        Label of a row. Its encoder and what marks a tuned, released or shuffled row are kept.
    """
    for prefix in _PREFIXES:
        if label.startswith(prefix):
            inner = printed_method(label.removeprefix(prefix))
            return PrintedMethod(f"{prefix}{inner.name}", inner.citation)
    method, encoder = split_encoder(label)
    installed = find_methods().get(method)
    if installed is None or installed.folder is None:
        return PrintedMethod(label)
    read = read_citation(method, _docstring(installed.folder / method))
    return PrintedMethod(f"{read.name} [{encoder}]" if encoder else read.name, read.citation)


def _docstring(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def write_bibliography(path: Path, citations: Sequence[Citation]) -> Path:
    """Write the entries of some papers; a file of the user's own is not overwritten.

    Raises
    ------
    BenchError
        There is a file that this program did not write.
    """
    check_bibliography(path)
    entries = {citation.key: citation.entry() for citation in citations}
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([MARK, *entries.values()]), encoding="utf-8")
    return path


def check_bibliography(path: Path) -> None:
    """Refuse to overwrite a bibliography that this program did not write."""
    if not path.exists():
        return
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            first = stream.readline().strip()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from None
    if first != MARK:
        raise BenchError(
            f"{path} is not a bibliography of this program and would be overwritten; choose another"
            " name for --out"
        )
