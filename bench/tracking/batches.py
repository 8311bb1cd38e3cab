"""Parameters and tags of MLflow runs within the limits of its servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_values(
    client: MlflowClient,
    run_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Log parameters and tags; values longer than MLflow stores end in an ellipsis.

    Parameters
    ----------
    client, run_id
        Where they go.
    params, tags
        Values by name.
    """
    from mlflow.entities import Param, RunTag
    from mlflow.utils.validation import (
        MAX_PARAM_VAL_LENGTH,
        MAX_PARAMS_TAGS_PER_BATCH,
        MAX_TAG_VAL_LENGTH,
    )

    entries: list[Any] = [
        Param(name, _within(value, MAX_PARAM_VAL_LENGTH)) for name, value in (params or {}).items()
    ]
    entries += [
        RunTag(name, _within(value, MAX_TAG_VAL_LENGTH)) for name, value in (tags or {}).items()
    ]
    for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
        batch = entries[start : start + MAX_PARAMS_TAGS_PER_BATCH]
        client.log_batch(
            run_id,
            params=[entry for entry in batch if isinstance(entry, Param)],
            tags=[entry for entry in batch if isinstance(entry, RunTag)],
        )


def _within(value: Any, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
