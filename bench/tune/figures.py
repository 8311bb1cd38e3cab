"""Figures of a study: history, importance of the settings, parallel coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from bench.files import atomic_write

if TYPE_CHECKING:
    from optuna import Study

_TIDY: dict[str, Any] = {"dpi": 150, "bbox_inches": "tight", "metadata": {"Software": None}}


def study_figures(study: Study, folder: Path, score: str) -> list[Path]:
    """Draw the history, the importances (fANOVA) and the parallel coordinates of a study.

    Parameters
    ----------
    study
        The study.
    folder
        Folder for the PNG files.
    score
        Name of its values.

    Returns
    -------
    list of Path
        The files. Importances need two finished trials that differ and may be missing.
    """
    import optuna.visualization.matplotlib as draw
    from optuna.importance import FanovaImportanceEvaluator

    done = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    searched = sorted({name for trial in done for name in trial.params})
    pictures: dict[str, Callable[[], Any]] = {
        "history": lambda: draw.plot_optimization_history(study, target_name=score)
    }
    if len(done) > 1 and searched:
        pictures["parallel-coordinates"] = lambda: draw.plot_parallel_coordinate(
            study, target_name=score
        )
    if len(done) > 3 and searched and len({trial.value for trial in done}) > 1:
        evaluator = FanovaImportanceEvaluator(seed=0)
        pictures["importance"] = lambda: draw.plot_param_importances(
            study, evaluator=evaluator, target_name=score
        )
    written = []
    for name, picture in pictures.items():
        path = folder / f"{name}.png"
        _save(picture, path)
        written.append(path)
    return written


def _save(picture: Callable[[], Any], path: Path) -> None:
    """Save a figure of the library and close it; the library draws in global state."""
    import matplotlib.pyplot as plt

    backend = plt.get_backend()
    plt.switch_backend("agg")
    try:
        with warnings.catch_warnings(), plt.style.context("default"):
            warnings.simplefilter("ignore")  # the library warns that it is experimental
            picture()
            figure = plt.gcf()
            figure.set_size_inches(8, 5)
            with atomic_write(path) as temporary:
                figure.savefig(temporary, format="png", **_TIDY)
            plt.close(figure)
    finally:
        plt.switch_backend(backend)
