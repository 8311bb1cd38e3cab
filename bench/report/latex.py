"""Tables in LaTeX that compile with pdfLaTeX, XeLaTeX and LuaLaTeX, whatever a name holds."""

from __future__ import annotations

import re
import unicodedata

from bench.files import one_line
from bench.report.grid import Cell, Grid

PACKAGES = ("booktabs", "adjustbox")
"""Packages that the tables need."""

_WIDE = 7
"""Number of columns from which a table spans both columns of a two-column page."""

_SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "{''}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "∞": r"$\infty$",
    "µ": r"$\mu$",
    "°": r"$^{\circ}$",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}

_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip

_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
_LATIN = {
    "ALPHA": "A", "BETA": "B", "EPSILON": "E", "ZETA": "Z", "ETA": "H", "IOTA": "I", "KAPPA": "K",
    "MU": "M", "NU": "N", "OMICRON": "O", "RHO": "P", "TAU": "T", "CHI": "X",
}  # fmt: skip
"""Greek letters whose capitals have no command, because they look like Latin ones."""


def escaped(text: str) -> str:
    r"""Text that LaTeX shows as it is.

    Signs of LaTeX are escaped, accented and Greek letters become commands; any other sign outside
    of ASCII is shown by its code point, since pdfLaTeX stops at letters that it does not know.

    Examples
    --------
    >>> escaped("a_b & 50 % ± λ")
    'a\\_b \\& 50 \\% $\\pm$ $\\lambda$'
    """
    # Two hyphens would be joined to a dash.
    return "".join(map(_sign, text)).replace("--", "-{-}").replace("--", "-{-}")


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isascii():
        return sign if sign.isprintable() else " "
    letter, accents = (parts := unicodedata.normalize("NFD", sign))[0], parts[1:]
    if len(accents) == 1 and accents in _ACCENTS and letter.isascii():
        return f"\\{_ACCENTS[accents]}{{{letter}}}"
    greek = _GREEK.fullmatch(unicodedata.name(sign, ""))
    if greek:
        size, name = greek.groups()
        name = {"LAMDA": "LAMBDA", "FINAL": ""}.get(name, name)
        if size == "CAPITAL" and name in _LATIN:
            return _LATIN[name]
        if size == "SMALL" and name == "OMICRON":
            return "o"
        if name:
            return f"$\\{name.lower() if size == 'SMALL' else name.capitalize()}$"
    return rf"\texttt{{U+{ord(sign):04X}}}"


def latex_table(grid: Grid, *, label: str = "", bibliography: str = "") -> str:
    """A table as a float with caption, label and notes; text is escaped.

    Parameters
    ----------
    grid
        The table.
    label
        Label, without ``tab:``; made of the caption where empty.
    bibliography
        Name of the file with the cited entries, for the comment at the top.
    """
    wide = "*" if len(grid.headings) >= _WIDE else ""
    cited = any(cell.cite for row in grid.rows for cell in row)
    lines = [f"% Needs \\usepackage{{{','.join(PACKAGES)}}}."]
    if cited:
        where = (
            one_line(bibliography) or "the file that 'bench tables --out FILE.tex' writes beside it"
        )
        lines.append(f"% Cited entries: {where}.")
    lines += [f"\\begin{{table{wide}}}", r"\centering"]
    if grid.title:
        lines.append(rf"\caption{{{escaped(grid.title)}}}")
    lines.append(rf"\label{{tab:{_label(label or grid.title)}}}")
    columns = "".join("r" if n in grid.numeric else "l" for n in range(len(grid.headings)))
    if wide:
        lines.append(r"\setlength{\tabcolsep}{3pt}")
    lines += [r"\begin{adjustbox}{max width=\linewidth}", rf"\begin{{tabular}}{{{columns}}}"]
    lines.append(r"\toprule")
    lines += _groups(grid)
    lines += [" & ".join(map(escaped, grid.headings)) + r" \\", r"\midrule"]
    for number, row in enumerate(grid.rows):
        if number in grid.rules:
            lines.append(r"\midrule")
        cells = (_cell(cell, place in grid.numeric) for place, cell in enumerate(row))
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}"]
    lines += _notes(grid)
    return "\n".join([*lines, f"\\end{{table{wide}}}", ""])


def _groups(grid: Grid) -> list[str]:
    """Row of the titles over groups of columns, and the rules under them."""
    if not grid.groups:
        return []
    cells, rules, first = [], [], 1
    for title, size in grid.groups:
        cells += [rf"\multicolumn{{{size}}}{{c}}{{{escaped(title)}}}"] if title else [""] * size
        if title:
            rules.append(rf"\cmidrule(lr){{{first}-{first + size - 1}}}")
        first += size
    return [" & ".join(cells) + r" \\", "".join(rules)]


def _cell(cell: Cell, numeric: bool) -> str:
    text = escaped(cell.text)
    if re.match(r"[-+]\d", text):
        text = f"${text[0]}${text[1:]}"
    if text.startswith(("[", "*")):  # after a line break it would begin an argument
        text = f"{{}}{text}"
    if cell.rank:
        command = "textbf" if cell.rank == "best" else "underline"
        # Bold mathematics would need a package more.
        value, sign, rest = text.partition(r" $\pm$")
        text = rf"\{command}{{{value}}}{sign}{rest}"
    text = re.sub(r" (\$\\pm\$) ([\d.]+)$", r"{\\scriptsize\\,\1\\,\2}", text)
    if cell.blank:
        blank = escaped(cell.blank).replace(" ", r"\,")
        text += rf"\phantom{{\scriptsize{blank}}}"
    if cell.note:
        note = rf"\textsuperscript{{{escaped(cell.note)}}}"
        # Digits stay below one another.
        text += rf"\rlap{{{note}}}" if numeric else note
    return f"{text}~\\cite{{{cell.cite}}}" if cell.cite else text


def _notes(grid: Grid) -> list[str]:
    numbered = [f"{number}.~{escaped(note)}" for number, note in enumerate(grid.notes, 1)]
    told = [*map(escaped, grid.remarks), *numbered]
    if not told:
        return []
    begin = [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
    return [*begin, *(rf"{note}\par" for note in told), r"\end{minipage}"]


def _label(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60] or "scores"
