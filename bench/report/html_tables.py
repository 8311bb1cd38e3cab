"""Tables as HTML with inline styles, which word processors keep when the table is pasted."""

from __future__ import annotations

import re
from html import escape

from bench.report.grid import Cell, Grid

_RULE = "border-top:1.5pt solid #000"
_THIN = "border-top:0.75pt solid #000"
_END = "border-bottom:1.5pt solid #000"
_UNDER = ";border-bottom:0.75pt solid #000"
_PADDING = "padding:2pt 5pt"


def html_table(grid: Grid) -> str:
    """A page that holds one table and its notes; text is escaped."""
    title = escape(grid.title or "Table")
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>',
        '<body style="font-family:Calibri,Arial,sans-serif;font-size:10pt">',
    ]
    if grid.title:
        lines.append(f'<p style="margin:0 0 4pt 0"><b>{title}</b></p>')
    lines.append('<table style="border-collapse:collapse;font-size:10pt">')
    lines += ["<thead>", *_head(grid), "</thead>", "<tbody>"]
    last = len(grid.rows) - 1
    for number, row in enumerate(grid.rows):
        style = _THIN if number == 0 or number in grid.rules else ""
        style = f"{style};{_END}".strip(";") if number == last else style
        lines.append(
            f"<tr>{''.join(_cell(grid, place, c, style) for place, c in enumerate(row))}</tr>"
        )
    lines += ["</tbody>", "</table>"]
    lines += [f'<p style="margin:4pt 0;font-size:9pt">{escape(told)}</p>' for told in grid.remarks]
    if grid.notes:
        listed = "".join(f"<li>{escape(note)}</li>" for note in grid.notes)
        lines.append(f'<ol style="font-size:9pt;margin:4pt 0">{listed}</ol>')
    return "\n".join([*lines, "</body></html>", ""])


def _head(grid: Grid) -> list[str]:
    rows = []
    if grid.groups:
        cells = "".join(
            f'<th colspan="{size}" style="{_PADDING};{_RULE};text-align:center'
            f'{_UNDER if text else ""}">{escape(text)}</th>'
            for text, size in grid.groups
        )
        rows.append(f"<tr>{cells}</tr>")
    top = "" if grid.groups else f";{_RULE}"
    cells = "".join(
        f'<th style="{_PADDING}{top};text-align:{_side(grid, place)}">{escape(text)}</th>'
        for place, text in enumerate(grid.headings)
    )
    return [*rows, f"<tr>{cells}</tr>"]


def _cell(grid: Grid, place: int, cell: Cell, style: str) -> str:
    text = re.sub(r"^-(?=\d)", "−", escape(cell.text)).replace(" ± ", " ±&nbsp;")
    if cell.rank:
        tag = "b" if cell.rank == "best" else "u"
        value, sign, rest = text.partition(" ±")
        text = f"<{tag}>{value}</{tag}>{sign}{rest}"
    if cell.note:
        text += f"<sup>{escape(cell.note)}</sup>"
    styles = ";".join(filter(None, [_PADDING, style, f"text-align:{_side(grid, place)}"]))
    return f'<td style="{styles}">{text}</td>'


def _side(grid: Grid, place: int) -> str:
    return "right" if place in grid.numeric else "left"
