"""Predictions of a slide by the fits of a model: their mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from bench.prediction.finished_stripes import FinishedStripe, FinishedStripes
from bench.prediction.fitted import predict_slide
from bench.prediction.new_image import stripes
from bench.prediction.stored_models import FittedFold, StoredModel
from bench.prediction.watching import PredictionWatcher

if TYPE_CHECKING:
    from bench.data.inputs import Slide
    from bench.method import Context, Method


@dataclass
class AveragedPrediction:
    """Mean and spread over fits, with what was noted on the way.

    Attributes
    ----------
    mean, spread
        (spots, genes) float64 mean over the fits that have a gene, and standard deviation (n - 1;
        NaN where fewer than two have it).
    fits
        (genes,) number of fits that have a gene.
    notes
        Notes of the methods.
    """

    mean: np.ndarray
    spread: np.ndarray
    fits: np.ndarray
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _FitColumns:
    """A fit, the genes asked for that it has, and their columns in its predictions."""

    fit: FittedFold
    here: np.ndarray
    columns: np.ndarray


def average_fits(
    model: StoredModel,
    slide: Slide,
    contexts: Mapping[str, Context],
    genes: Sequence[str],
    watcher: PredictionWatcher,
    finished: FinishedStripes,
) -> AveragedPrediction:
    """Mean over the fits that have a gene, by Welford's sums.

    Parameters
    ----------
    model
        The fits.
    slide
        The image; a slide that is read in tiles is predicted stripe by stripe.
    contexts
        Surroundings by name of the fit.
    genes
        Genes in the order of the columns.
    watcher
        Told how many spots are done.
    finished
        Stripes that an earlier call has finished.

    Raises
    ------
    BenchError
        A method refuses the slide or fails on it.
    """
    shape = (len(slide), len(genes))
    mean, squares = np.zeros(shape), np.zeros(shape)
    of_fits = [_columns(fit, genes) for fit in model.fits]
    load = cache(lambda number: model.fits[number].load(model.kind))
    notes: list[str] = []
    done, striped = 0, False
    for rows, part in stripes(slide, model.kind.reads_section):
        if len(rows) < len(slide) and not striped:
            striped = True
            finished.begin(model, slide, contexts, genes)
        kept = finished.get(rows, len(genes)) if striped else None
        if kept is None:
            kept = _predicted(
                [(of, load(number), contexts[of.fit.name]) for number, of in enumerate(of_fits)],
                *(part, len(genes), watcher, done, len(slide)),
            )
            if striped:
                finished.put(rows, kept)
        mean[rows], squares[rows] = kept.mean, kept.squares
        notes += kept.notes
        done += len(rows)
        watcher.predicted(done, len(slide))
    fits = np.zeros(len(genes), dtype=np.int64)
    for of in of_fits:
        fits[of.here] += 1
    spread = np.full(shape, np.nan)
    several = fits > 1
    spread[:, several] = np.sqrt(squares[:, several] / (fits[several] - 1))
    return AveragedPrediction(mean, spread, fits, list(dict.fromkeys(notes)))


def _columns(fit: FittedFold, genes: Sequence[str]) -> _FitColumns:
    places = {gene: number for number, gene in enumerate(fit.panel)}
    here = np.array([number for number, gene in enumerate(genes) if gene in places], dtype=int)
    columns = np.array([places[genes[number]] for number in here], dtype=int)
    return _FitColumns(fit, here, columns)


def _predicted(
    fitted: Sequence[tuple[_FitColumns, Method, Context]],
    part: Slide,
    genes: int,
    watcher: PredictionWatcher,
    before: int,
    total: int,
) -> FinishedStripe:
    """Welford's sums on the spots of one stripe."""
    mean, squares = np.zeros((len(part), genes)), np.zeros((len(part), genes))
    fits = np.zeros(genes, dtype=np.int64)
    notes: list[str] = []
    for number, (of, method, context) in enumerate(fitted):
        watcher.predicted(before + len(part) * number // len(fitted), total)
        values = predict_slide(method, part, of.fit.panel, context)[:, of.columns]
        fits[of.here] += 1
        difference = values.astype(np.float64) - mean[:, of.here]
        mean[:, of.here] += difference / fits[of.here]
        squares[:, of.here] += difference * (values - mean[:, of.here])
        notes += context.notes
    return FinishedStripe(mean, squares, tuple(dict.fromkeys(notes)))
