"""Storing scikit-learn estimators without pickle. Importing it imports no scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import DataError
from bench.files import atomic_write, one_line

_TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process.kernels.",
    "sklearn.metrics._dist_metrics.",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)
"""Parts of fitted estimators beside those that skops trusts; classes that hold numbers alone."""


def save_estimator(estimator: Any, path: Path) -> None:
    """Write a fitted scikit-learn estimator, or a pipeline of several, as a skops file.

    Parameters
    ----------
    estimator
        Estimator whose parts are of scikit-learn, NumPy and SciPy.
    path
        File, usually ``NAME.skops`` in the folder that a method saves to.

    Raises
    ------
    DataError
        It holds a type that :func:`load_estimator` would refuse.
    """
    import skops.io

    try:
        content = skops.io.dumps(estimator)
    except Exception as error:
        # An object of another library may refuse in any way.
        kind = type(estimator).__name__
        raise DataError(f"{kind} cannot be stored by skops: {one_line(error)}") from error
    _trusted(skops.io.get_untrusted_types(data=content), type(estimator).__name__)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load_estimator(path: Path) -> Any:
    """Read what :func:`save_estimator` wrote; only types that are known to be harmless are loaded.

    Parameters
    ----------
    path
        File of :func:`save_estimator`.

    Returns
    -------
    estimator
        Fitted scikit-learn estimator, as it was saved.

    Raises
    ------
    DataError
        The file is missing or damaged, or holds another type.
    """
    import skops.io

    try:
        types = _trusted(skops.io.get_untrusted_types(file=path), str(path))
        return skops.io.load(path, trusted=types)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except Exception as error:
        # A damaged file may fail in any way.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"{path}: no skops file that can be read ({reason})") from error


def _trusted(names: list[str], where: str) -> list[str]:
    strangers = sorted(name for name in names if not name.startswith(_TRUSTED))
    if strangers:
        raise DataError(
            f"{where}: holds {one_line(strangers[0], 80)}, no trusted type of scikit-learn; store"
            " its arrays with numpy.savez instead"
        )
    return names
