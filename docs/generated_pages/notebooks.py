"""Execution of the tutorials, several at a time; MyST-NB alone runs them one after another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

SECONDS = 300
"""Maximum time of a cell."""

_MARK = "file_format: mystnb"
_READER = {"name": "myst_nb_md", "type": "plugin"}


def fill_cache(app: Any) -> None:
    """Execute the notebooks whose code has changed, on all cores, and keep their output.

    MyST-NB takes the output from the cache. A notebook that fails is not kept, so MyST-NB executes
    it again and reports the error.

    Parameters
    ----------
    app
        The Sphinx application.
    """
    if app.config.nb_execution_mode != "cache":
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    for page in sorted(Path(app.srcdir, "tutorials").glob("*.md")):
        if _MARK in page.read_text(encoding="utf-8").partition("\n# ")[0]:
            cache.add_nb_to_project(str(page), read_data=_READER)
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.WARNING)
    load_executor("temp-parallel", cache, logger).run_and_cache(timeout=SECONDS)
