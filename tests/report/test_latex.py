"""LaTeX compiles, whatever names and labels hold."""

from __future__ import annotations

import shutil
import subprocess

import pandas as pd
import pytest

from bench.report.citations import read_citation, write_bibliography
from bench.report.formats import write_table
from bench.report.grid import Cell, Grid
from bench.report.latex import PACKAGES, escaped, latex_table
from bench.report.paper import paper_table
from bench.report.paper_formats import citations, write_paper
from tests.report.test_names_in_tables import FORMULAS, ODD
from tests.report.test_tables import store  # noqa: F401 - a fixture

PDFLATEX, BIBTEX = shutil.which("pdflatex"), shutil.which("bibtex")
needs_latex = pytest.mark.skipif(
    not (PDFLATEX and BIBTEX), reason="no pdflatex or no bibtex on this machine"
)

HOSTILE = [
    *(r"a_b & c % d # e \ f $ g ^ h ~ i { j }", "[opt] first", "*starred", "--flag", "<<>>|`'\""),
    *(r"\end{tabular}\input{/etc/passwd}", "}}}{{{", "ÅÖüßøłŒ ñ é č", "αβΓΩλ µ ² ± – ≥ ↑ † …"),
    *("漢字 🙂 ᚠ \u200f", "%", "#1", "^^M", "a\u0301\u0302\u0303", "\ud800"),
]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("IGKC_2", r"IGKC\_2"),
        ("50 %", r"50 \%"),
        ("a--b", "a-{-}b"),
        ("a---b", "a-{-}-b"),
        ("λ", r"$\lambda$"),
        ("Ω", r"$\Omega$"),
        ("é", r"\'{e}"),
        ("漢", r"\texttt{U+6F22}"),
    ],
)
def test_signs_of_latex_and_other_alphabets_are_escaped(text, latex):
    assert escaped(text) == latex


@pytest.mark.parametrize("name", [*HOSTILE, *ODD, *FORMULAS])
def test_escaped_text_is_ascii_with_balanced_braces(name):
    text = escaped(name)
    assert text.isascii()
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")


def test_a_group_of_columns_spans_them_and_untitled_columns_do_not():
    row = [Cell(text) for text in ("m", "1", "2", "r")]
    text = latex_table(
        Grid(["method", "A", "B", "rank"], [row], groups=[("", 1), ("x_y", 2), ("", 1)])
    )
    assert r" & \multicolumn{2}{c}{x\_y} &  \\" in text
    assert r"\cmidrule(lr){2-3}" in text


def compiled(folder, *tables, bibliography=""):
    """Text of the log of a document that holds some tables."""
    inputs = "\n".join(rf"\input{{{name}}}" for name in tables)
    cites = rf"\bibliographystyle{{plain}}\bibliography{{{bibliography}}}" if bibliography else ""
    (folder / "all.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{{','.join(PACKAGES)}}}\begin{{document}}"
        f"\n{inputs}\n{cites}\n\\end{{document}}\n"
    )
    latex = [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    steps = [latex, [BIBTEX, "all"], latex, latex] if bibliography else [latex]
    for step in steps:
        done = subprocess.run(
            step, cwd=folder, capture_output=True, text=True, errors="replace", timeout=600
        )
        assert done.returncode == 0, done.stdout[-3000:]
    return (folder / "all.log").read_text(errors="replace")


@needs_latex
@pytest.mark.slow
def test_tables_of_hostile_names_compile(tmp_path):
    names = [*HOSTILE, *ODD, *FORMULAS]
    table = pd.DataFrame({"gene": names, "label": names[::-1], "pcc": 0.5})
    notes = [f"note of {name}" for name in HOSTILE]
    text = write_table(table, table.astype(str), notes, "latex", title="".join(HOSTILE))
    (tmp_path / "odd.tex").write_text(text, encoding="utf-8")
    log = compiled(tmp_path, "odd.tex")
    assert "Missing character" not in log


@needs_latex
@pytest.mark.slow
def test_a_papers_table_compiles_with_its_bibliography(store, tmp_path):  # noqa: F811
    runs = [store(name)[0] for name in ("mclstexp", "stnet", r"my_method & 50 % \x{", "[a]*")]
    table = paper_table({"tiny_1 & 2": runs, "two": runs})
    text = write_paper(table, "latex", title="A & B_c", ranks=True, bibliography="paper.bib")
    (tmp_path / "paper.tex").write_text(text)
    hostile = read_citation("x", 'X: y.\n\nO\'Neil_ & B., "A } title % # of {", J $ 1 (2024).')
    write_bibliography(tmp_path / "paper.bib", [*citations(table), hostile.citation])
    log = compiled(tmp_path, "paper.tex", bibliography="paper")
    assert "undefined" not in log
    entries = (tmp_path / "all.bbl").read_text()
    assert entries.count(r"\bibitem") == 2
