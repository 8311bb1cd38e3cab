"""Files of a model that an MLflow store has, fetched without following what the store says."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, DataError
from bench.files import one_line
from bench.prediction.bundle import CONTENT
from bench.tracking.importing import import_mlflow
from bench.tracking.logged_files import DATA, FACTS
from bench.tracking.pages import public
from bench.tracking.records import local_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGGED = "models:/"
"""Beginning of the address of a logged or registered model."""

LARGEST = 4 << 30
"""Bytes of the largest model that is fetched."""

_MOST_FILES = 100_000


@contextmanager
def fetched_folder(uri: str, folder: str, tracking: str | None = None) -> Iterator[Path]:
    """A folder of a model's files, fetched for as long as the context lasts.

    Only files are fetched. References of the store to Python modules and code, which
    ``mlflow.pyfunc.load_model`` would follow, are ignored.

    Parameters
    ----------
    uri
        ``models:/m-...``, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, or another location
        of the model's files.
    folder
        Folder among them.
    tracking
        MLflow tracking URI; None: MLflow's default.

    Raises
    ------
    DataError
        No such store or model, one without such a folder, or one that is too large.
    """
    import_mlflow()
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    path = local_file(tracking or "")
    if path is not None and not path.is_file():
        # MLflow would make an empty database there.
        raise DataError(f"{uri}: no tracking store {public(tracking)}; name one with --tracking")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        try:
            # MLflow itself would ask its default store for the model, whatever store is named.
            asked = uri.startswith(LOGGED)
            place = _location(MlflowClient(tracking_uri=tracking), uri) if asked else uri
            where = f"{place.rstrip('/')}/{folder}"
            _check_size(where, tracking)
            fetched = download_artifacts(artifact_uri=where, tracking_uri=tracking, dst_path=made)
        except BenchError:
            raise
        except Exception as error:
            reason = one_line(public(f"{type(error).__name__}: {error}"))
            raise DataError(f"{public(uri)}: cannot be fetched ({reason})") from error
        yield Path(fetched)


def _location(client: MlflowClient, uri: str) -> str:
    """Where the files of a logged or registered model lie."""
    name = uri.removeprefix(LOGGED).strip("/")
    if not name.startswith("m-"):
        registered, _, alias = name.partition("@")
        model, _, version = registered.partition("/")
        if not (model and (alias or version)):
            raise DataError(
                f"{uri}: write models:/m-..., models:/NAME/VERSION or models:/NAME@ALIAS"
            )
        found = (
            client.get_model_version_by_alias(model, alias)
            if alias
            else client.get_model_version(model, version)
        )
        source = str(found.source)
        name = source.removeprefix(LOGGED).strip("/")
        if not (source.startswith(LOGGED) and name.startswith("m-")):
            return source
    return str(client.get_logged_model(name).artifact_location)


def _check_size(uri: str, tracking: str | None) -> None:
    from mlflow.artifacts import list_artifacts

    total, files, waiting = 0, 0, [uri]
    while waiting:
        folder = waiting.pop()
        for item in list_artifacts(artifact_uri=folder, tracking_uri=tracking):
            files += 1
            total += int(item.file_size or 0)
            if item.is_dir:
                waiting.append(f"{folder}/{posixpath.basename(str(item.path))}")
            if total > LARGEST or files > _MOST_FILES:
                most = f"{LARGEST / 2**30:.0f} GB or {_MOST_FILES:,} files"
                raise DataError(f"{public(uri)}: more than {most}")


@contextmanager
def fetched_bundle(uri: str, tracking: str | None = None) -> Iterator[Path]:
    """Folder with the members of the bundle that a logged model holds.

    Parameters
    ----------
    uri, tracking
        See :func:`fetched_folder`.

    Raises
    ------
    DataError
        As :func:`fetched_folder`; or the model was not logged by this package, or without what a
        bundle holds.
    """
    with fetched_folder(uri, DATA, tracking) as folder:
        if not (folder / FACTS).is_file():
            raise DataError(f"{uri}: is no model that spotbench has logged")
        if not (folder / CONTENT).is_file():
            raise DataError(
                f"{uri}: was logged without the dataset's card or by an earlier version, and has"
                " no scores; read it with bench.tracking.model.fetch_model"
            )
        yield folder
