"""Bundles by name: a file, a logged model of MLflow, or a repository on Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError, DataError
from bench.files import one_line
from bench.tracking.database import database_path
from bench.tracking.fetching import LOGGED, fetched_bundle
from bench.tracking.importing import import_mlflow
from bench.tracking.tracking_store import open_database
from bench.tracking.upload import tracking_uri

HUB = "hf://"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@contextmanager
def named_bundle(name: str, results: Path, tracking: str | None = None) -> Iterator[Path]:
    """A bundle, fetched where it is elsewhere, for as long as the context lasts.

    Parameters
    ----------
    name
        Path of a bundle, ``models:/...`` of an MLflow store, or ``hf://OWNER/REPO[@REVISION]``.
    results
        Results folder, whose own MLflow store is asked where `tracking` names none.
    tracking
        MLflow tracking URI; None: ``MLFLOW_TRACKING_URI``, else the store of the results folder.

    Raises
    ------
    BenchError
        Another kind of address, or a model that cannot be fetched or is damaged.
    """
    if name.startswith(HUB):
        from bench.prediction.hub_bundles import downloaded_bundle

        yield downloaded_bundle(name.removeprefix(HUB))
    elif name.startswith(LOGGED):
        uri = tracking_uri(tracking, results)
        import_mlflow()
        if database_path(results).is_file():
            open_database(results, uri)  # the results folder may have been moved
        with fetched_bundle(name, uri) as folder:
            try:
                yield folder
            except DataError as error:
                # The user knows the model by its name, not by the folder it was fetched to.
                raise DataError(str(error).replace(str(folder), name)) from error
    elif _SCHEME.match(name) and not Path(name).exists():
        raise BenchError(
            f"{one_line(name, 80)}: no such kind of model; name a bundle of 'bench export',"
            f" {LOGGED}m-... of an MLflow store, or {HUB}OWNER/REPO"
        )
    else:
        yield Path(name)
