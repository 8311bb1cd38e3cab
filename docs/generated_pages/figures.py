"""Figures of the concepts, drawn from the embedded data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.data.dataset import Dataset
from bench.data.section import Section
from bench.evaluate.ceiling import noise_ceiling
from bench.evaluate.metrics import pearson_per_gene
from bench.evaluate.oracles import depth
from bench.execute.division import divide
from bench.protocol.folds import Folds
from bench.protocol.normalise import normalise
from bench.protocol.rules import BY_SECTION, HEST, PUBLISHED, STRICT, find_protocol
from bench.registry import dataset_card

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#bbbbbb"
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "spotbench",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_folds(path: Path) -> None:
    """Sections of each fold under a patient split and with one section left out."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        for axes, protocol in zip(
            figure.subplots(1, 2), (STRICT.name, BY_SECTION.name), strict=True
        ):
            dataset, folds = _divided(protocol)
            sections = [section.name for section in dataset]
            axes.imshow(_parts(folds, sections), cmap=ListedColormap([GREY, "#56b4e9", ORANGE]))
            axes.set_xticks(range(len(sections)), sections)
            axes.set_yticks(range(len(folds.folds)), [f"fold {f.index}" for f in folds.folds])
            axes.set_title(f"protocol {protocol}")
            axes.tick_params(length=0)
        names = ("train", "validation", "test")
        colours = (GREY, "#56b4e9", ORANGE)
        keys = [
            Patch(color=colour, label=name) for name, colour in zip(names, colours, strict=True)
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False)
        _save(figure, path)


def _parts(folds: Folds, sections: list[str]) -> np.ndarray:
    """(folds, sections) int: 0 train, 1 validation, 2 test."""
    return np.array(
        [
            [2 if name in fold.test else 1 if name in fold.validation else 0 for name in sections]
            for fold in folds.folds
        ]
    )


def draw_normalisation(path: Path) -> None:
    """One gene of a section against the total count of the spot, before and after scaling."""
    section = _section()
    counts, totals = section.adata.X.tocsr(), _totals(section)
    gene = int(np.asarray(counts.sum(axis=0)).argmax())
    raw = counts[:, [gene]].toarray()
    scaled = normalise(counts, np.array([gene]), STRICT.target)
    with rc_context(_STYLE):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        panels = ((raw, "raw count"), (scaled, "ln(1 + 10,000 · count / total)"))
        for axes, (values, label) in zip(figure.subplots(1, 2), panels, strict=True):
            r = pearson_per_gene(values, totals[:, None])[0]
            axes.scatter(totals, values, s=9, color=BLUE, linewidths=0)
            axes.set(xlabel="total count of the spot", ylabel=label, title=f"r = {r:.2f}")
        figure.suptitle(f"gene {section.adata.var_names[gene]}, section {section.name}", size=9)
        _save(figure, path)


def draw_ceiling(path: Path) -> None:
    """Noise ceiling of every gene of a section against its mean count."""
    section = _section()
    counts = section.adata.X.tocsr()
    means = np.asarray(counts.mean(axis=0)).ravel()
    genes = np.flatnonzero(means > 0)
    ceiling = noise_ceiling(counts, lambda half: normalise(half, genes, STRICT.target))
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3), layout="constrained")
        axes = figure.subplots()
        axes.scatter(means[genes], ceiling, s=9, color=BLUE, linewidths=0)
        axes.set_xscale("log")
        axes.set(xlabel="mean count per spot", ylabel="noise ceiling of the PCC", ylim=(0, 1))
        _save(figure, path)


def draw_depth(path: Path) -> None:
    """PCC of the depth oracle for every gene, under the scales of three protocols."""
    section = _section()
    counts = section.adata.X.tocsr()
    genes = np.flatnonzero(np.asarray(counts.mean(axis=0)).ravel() > 0)
    prediction = depth(_totals(section), len(genes))
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 2.6), layout="constrained")
        axes = figure.subplots()
        labels = (("strict", STRICT), ("published", PUBLISHED), ("hest (raw log counts)", HEST))
        scores = [
            pearson_per_gene(normalise(counts, genes, protocol.target), prediction)
            for _, protocol in labels
        ]
        shown = [score[~np.isnan(score)] for score in scores]
        axes.boxplot(shown, orientation="horizontal", medianprops={"color": ORANGE})
        axes.set_yticks(range(1, 4), [label for label, _ in labels])
        axes.axvline(0, color=GREY, linewidth=1, zorder=0)
        axes.set(xlabel="PCC of a gene with the total count of the spot")
        _save(figure, path)


FIGURES: dict[str, Callable[[Path], None]] = {
    "folds": draw_folds,
    "normalisation": draw_normalisation,
    "ceiling": draw_ceiling,
    "depth": draw_depth,
}
"""Functions that write a figure as SVG, by the name of its file."""


@cache
def _divided(protocol: str) -> tuple[Dataset, Folds]:
    dataset, folds, _ = divide(dataset_card("demo"), find_protocol(protocol), None, images=False)
    return dataset, folds


def _section() -> Section:
    return next(iter(_divided(STRICT.name)[0]))


def _totals(section: Section) -> np.ndarray:
    return np.asarray(section.adata.X.sum(axis=1), dtype=np.float64).ravel()


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
