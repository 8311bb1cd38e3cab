"""Parameters and tags of MLflow runs within the limits of its servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput


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


def log_dataset(client: MlflowClient, run_id: str, data: DatasetInput) -> None:
    """Log the dataset of a run; other processes may be logging the same one.

    MLflow looks whether it knows a dataset before it stores it. The database refuses the second
    of two that were not known a moment before, and the next attempt finds it.

    Parameters
    ----------
    client, run_id
        Where it goes.
    data
        The dataset.
    """
    for attempt in Retrying(
        retry=retry_if_exception(_is_stored_twice),
        stop=stop_after_attempt(5),
        wait=wait_random(0, 1),
        reraise=True,
    ):
        with attempt:
            client.log_inputs(run_id, [data])


def _is_stored_twice(error: BaseException) -> bool:
    from mlflow.exceptions import MlflowException

    # MLflow has no class for it; the names are SQLAlchemy's and those of PostgreSQL's driver.
    text = str(error)
    return isinstance(error, MlflowException) and (
        "IntegrityError" in text or "UniqueViolation" in text
    )


def _within(value: Any, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
