"""Figures of stored runs as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import atomic_write
from bench.report.comparison_figures import comparison_figures
from bench.report.figure_style import FigureStyle, styled
from bench.report.maps import domain_maps, gene_maps, shown_genes
from bench.report.paper import PaperTable
from bench.report.section_maps import section_map, stored_sections
from bench.report.summary_figures import summary_figure
from bench.store import folder_name, not_writable
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 200
FORMATS = ("png", "pdf", "svg")
"""Formats of figures, the usual ones first."""

_NO_TIME: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
"""Metadata without a time stamp."""


def draw_figures(
    runs: Sequence[StoredRun],
    folder: Path,
    *,
    sections: Sequence[str] = (),
    genes: Sequence[str] = (),
    style: FigureStyle | None = None,
    formats: Sequence[str] = FORMATS[:2],
) -> list[Path]:
    """Write every figure of a comparison, by default as PNG and PDF.

    Parameters
    ----------
    runs
        Runs on one dataset under one protocol.
    folder
        Folder for the files.
    sections
        Sections to draw maps of; by default the first one, and every section with labels
        for the domains.
    genes
        Genes of the maps; by default the best-predicted markers.
    style
        Size and text; None for those of a page.
    formats
        Some of :data:`FORMATS`.

    Returns
    -------
    list of Path
        The files, in the order in which they were written.

    Raises
    ------
    UnknownNameError
        A section that no run has predicted.
    BenchError
        A gene that is not in the panel.
    """
    done = [run for run in runs if run.done]
    with styled(style or FigureStyle()):
        figures = _figures(done, sections, genes)
        return write_figures(figures, folder, formats)


def _figures(
    done: Sequence[StoredRun], sections: Sequence[str], genes: Sequence[str]
) -> dict[str, Figure]:
    figures: dict[str, Figure] = dict(comparison_figures(done))
    # Maps compare methods that learned from equally many patients.
    whole = [run for run in done if run.facts.get("train_patients") is None] or done
    for section in sections or stored_sections(whole)[:1]:
        section_shown = section_map(whole, section)
        shown = list(genes) or shown_genes(whole, section_shown.genes)
        figures[f"genes-{folder_name(section)}"] = gene_maps(section_shown, shown)
        domains = domain_maps(section_shown)
        if domains is not None:
            figures[f"domains-{folder_name(section)}"] = domains
    return figures


def draw_summary(
    table: PaperTable, folder: Path, style: FigureStyle, formats: Sequence[str] = FORMATS[:2]
) -> list[Path]:
    """Write the figure over several datasets; see :func:`draw_figures`."""
    with styled(style):
        return write_figures({"summary": summary_figure(table)}, folder, formats)


def write_figures(
    figures: Mapping[str, Figure], folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Write figures in some formats; the same results give the same files.

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    written = []
    for name, figure in figures.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"
            try:
                with atomic_write(path) as temporary:
                    figure.savefig(temporary, format=kind, dpi=_DPI, metadata=_NO_TIME[kind])
            except OSError as error:
                raise not_writable(path, error, "--out") from error
            written.append(path)
    return written
