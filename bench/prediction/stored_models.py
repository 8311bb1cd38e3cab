"""The model that a prediction is made with: a stored run, and its fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, DataError, UnknownNameError
from bench.method_references import is_own, split_encoder, split_ensemble
from bench.prediction.fitted import load_fitted
from bench.registry import load_method
from bench.report.presets import shown_preset
from bench.report.tables import newest
from bench.store import MODEL
from bench.stored_runs import StoredRun, protocols_with_runs, stored_runs

if TYPE_CHECKING:
    from bench.method import Method, Precision

FINAL = "final"
"""Folder of a run's fit on all sections, beside its folds."""


@dataclass(frozen=True)
class FittedFold:
    """One fit of a run.

    Attributes
    ----------
    name
        ``fold 0``, or ``final``.
    folder
        What the method saved.
    config
        Settings of the fit.
    panel
        Genes that it predicts, in the order of its columns.
    sections
        Sections that it was fitted on, validation included.
    precision
        Of image encoders in the fit.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    panel: tuple[str, ...]
    sections: tuple[str, ...]
    precision: Precision

    def load(self, kind: type[Method]) -> Method:
        """The fitted method."""
        return load_fitted(kind, self.config, self.folder)


@dataclass(frozen=True)
class StoredModel:
    """A stored run whose method can predict a new image.

    Attributes
    ----------
    run
        The run.
    kind
        Class of its method.
    fits
        Fits whose predictions are averaged.
    """

    run: StoredRun
    kind: type[Method]
    fits: tuple[FittedFold, ...]

    @property
    def label(self) -> str:
        """Row of the run in tables."""
        return str(self.run.facts["label"])

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes that any fit predicts, in the order in which the fits name them."""
        return tuple(dict.fromkeys(gene for fit in self.fits for gene in fit.panel))

    @property
    def sections(self) -> tuple[str, ...]:
        """Sections that any fit was fitted on."""
        return tuple(dict.fromkeys(name for fit in self.fits for name in fit.sections))


def find_run(
    results: Path,
    dataset: str,
    method: str,
    protocol: str | None = None,
    key: str | None = None,
    *,
    with_model: bool = True,
) -> StoredRun:
    """The stored run with finished folds that a user names.

    Parameters
    ----------
    results
        Results folder.
    dataset, protocol
        Names; None: the protocol that has such a run.
    method
        Its row in tables, or the method without its encoder, or the file of a method.
    key
        First characters of the run's key, where several runs have the row.
    with_model
        Whether rows that have stored predictions but no model are refused.

    Raises
    ------
    UnknownNameError
        No such dataset, protocol or method in the results folder.
    BenchError
        No finished fold, several runs, or a row that has no model: an oracle, a control, an
        ensemble, or a method that looks at no image.
    """
    runs = [
        run
        for name in protocols_with_runs(results, dataset, protocol)
        for run in newest(stored_runs(results, dataset, name, "figures"))
        if not run.origin  # models are not shared
    ]
    labels = {str(run.facts["label"]) for run in runs}
    asked = load_method(method).name if is_own(method) else method
    # The name without its encoder stands for the rows of all encoders.
    wanted = {asked} & labels or {name for name in labels if split_encoder(name)[0] == asked}
    if not wanted:
        raise UnknownNameError(f"method with runs on {dataset}", asked, sorted(labels))
    chosen = [run for run in runs if run.facts["label"] in wanted]
    for run in chosen if with_model else ():
        _check_kind(run)
    done = [run for run in chosen if run.done and run.facts["key"].startswith(key or "")]
    if not done and any(run.done for run in chosen):
        raise BenchError(f"{asked} on {dataset}: no run has a key that begins with '{key}'")
    if not done:
        damage = next((text for run in chosen for text in run.damaged.values()), "")
        reason = f" ({damage})" if damage else ""
        raise BenchError(
            f"{asked} on {dataset}: the run has no finished fold{reason}; finish it with"
            " 'bench run'"
        )
    if len(done) > 1:
        shown = "; ".join(_described(run) for run in done[:6])
        raise BenchError(
            f"{asked} on {dataset}: {len(done)} runs, choose one with --protocol or --run: {shown}"
        )
    return done[0]


def _check_kind(run: StoredRun) -> None:
    label, kind = run.facts["label"], run.facts["kind"]
    if kind != "method":
        raise BenchError(
            f"{label} is {'an' if kind == 'oracle' else 'a'} {kind}, which shows what a score"
            " rewards, and predicts no new image"
        )
    if members := split_ensemble(label):
        raise BenchError(
            f"{label} is an ensemble of stored predictions and has no model; predict with"
            f" {' or '.join(members)}"
        )


def _described(run: StoredRun) -> str:
    facts = run.facts
    return (
        f"{facts['label']}, protocol {facts['protocol']}, preset {shown_preset(facts)}, seed"
        f" {facts['seed']}: --run {facts['key'][:8]}"
    )


def stored_model(run: StoredRun, method: str, fold: int | None = None) -> StoredModel:
    """The fitted folds of a run.

    Parameters
    ----------
    run
        A run of :func:`find_run`.
    method
        As a user names it: a method of a file is read from there.
    fold
        Number of one fold; None: all that are finished.

    Raises
    ------
    BenchError
        The fold is not finished, its model is not stored, or the method looks at no image or
        reads features that were computed elsewhere.
    """
    kind = model_class(run, method)
    done = run.done if fold is None else (fold,)
    if fold is not None and fold not in run.done:
        finished = ", ".join(map(str, run.done))
        raise BenchError(f"{run.facts['label']}: fold {fold} is not finished; finished: {finished}")
    return StoredModel(run, kind, tuple(_fits(run, done)))


def one_fold(model: StoredModel, fold: int) -> StoredModel:
    """The model with one of its fits alone.

    Raises
    ------
    BenchError
        It has no such fold.
    """
    fits = tuple(fit for fit in model.fits if fit.name == f"fold {fold}")
    if not fits:
        known = ", ".join(fit.name for fit in model.fits)
        raise BenchError(f"{model.label}: no fold {fold}; the model has {known}")
    return replace(model, fits=fits)


def model_class(run: StoredRun, method: str) -> type[Method]:
    """Class of a run's method, which must look at images.

    Raises
    ------
    BenchError
        As :func:`stored_model`; or the method is not installed.
    """
    kind = load_method(method if is_own(method) else run.facts["method"])
    if not kind.needs_image:
        raise BenchError(
            f"{kind.name} needs no image: it predicts from array coordinates or the training mean"
            " alone, and a new image has nothing to tell it"
        )
    if run.facts["config"].get("features"):
        raise BenchError(
            f"{run.facts['label']} reads features that were computed elsewhere (setting"
            " 'features'), which a new image does not have"
        )
    return kind


def _fits(run: StoredRun, folds: tuple[int, ...]) -> Iterator[FittedFold]:
    for index in folds:
        fold = run.folder.fold(index)
        facts = fold.facts()
        folder = fold.path / MODEL
        state = fold.state("run")
        if not state.done:
            raise DataError(f"{fold.path}: {state.damage or 'not finished'}; run it again")
        if not folder.is_dir():
            raise DataError(f"{fold.path}: its model is not stored; run it again with --force")
        yield FittedFold(
            name=f"fold {index}",
            folder=folder,
            config=run.facts.get("tuned", {}).get(str(index), run.facts["config"]),
            panel=tuple(facts["panel"]),
            sections=(*facts["train"], *facts["validation"]),
            precision=facts["precision"],
        )
