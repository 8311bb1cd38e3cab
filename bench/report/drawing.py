"""Figures of stored runs as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.files import atomic_write
from bench.report.comparison_figures import comparison_figures
from bench.report.maps import domain_maps, gene_maps, section_map, shown_genes, stored_sections
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 200


def draw_figures(
    runs: Sequence[StoredRun],
    folder: Path,
    *,
    sections: Sequence[str] = (),
    genes: Sequence[str] = (),
) -> list[Path]:
    """Write every figure of a comparison as PNG and PDF.

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
    figures: dict[str, Figure] = dict(comparison_figures(done))
    # Maps compare methods that learned from equally many patients.
    whole = [run for run in done if run.facts.get("train_patients") is None] or done
    for section in sections or stored_sections(whole)[:1]:
        section_shown = section_map(whole, section)
        shown = list(genes) or shown_genes(whole, section_shown.genes)
        figures[f"genes-{section}"] = gene_maps(section_shown, shown)
        domains = domain_maps(section_shown)
        if domains is not None:
            figures[f"domains-{section}"] = domains
    written = []
    for name, figure in figures.items():
        for kind in ("png", "pdf"):
            path = folder / f"{name}.{kind}"
            with atomic_write(path) as temporary:
                # Without a time stamp, so that the same results give the same file.
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)
            written.append(path)
    return written
