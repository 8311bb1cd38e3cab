"""Import of MLflow when needed, since it is slow, with telemetry and output switched off."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

# No telemetry, no progress bars and addresses on the terminal, and no upload of the working
# folder's files.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}


def import_mlflow(settings: Mapping[str, str] | None = None) -> None:
    """Import MLflow such that it prints only warnings.

    Parameters
    ----------
    settings
        Further environment variables of MLflow; those set by the user are kept.
    """
    for name, value in {**(settings or {}), **_QUIET}.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for talkative in ("alembic", "mlflow"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
