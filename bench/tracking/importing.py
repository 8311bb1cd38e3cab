"""Importing MLflow, which is slow and talkative, when it is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

# Nobody asked to be counted, to be shown bars and addresses, or to have the working folder's
# files uploaded.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}


def import_mlflow(settings: Mapping[str, str] | None = None) -> None:
    """Import MLflow so that it prints warnings alone.

    Parameters
    ----------
    settings
        More of MLflow's environment variables; those that the user has set are kept.
    """
    for name, value in {**(settings or {}), **_QUIET}.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for talkative in ("alembic", "mlflow"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
