"""MLflow: uploads what lies in the result store. Results on disk come first.

Everything here is a function of stored files, so that what could not be uploaded can be uploaded
later. mlflow is imported when the first upload is due, never for ``--tracking none``.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.files import one_line
from bench.report.figures import prediction_map
from bench.report.tables import POOLED_SCORES, SECTION_SCORES, render, score_table
from bench.store import FoldFolder, StoredRun, read_record, write_record

if TYPE_CHECKING:
    from mlflow import MlflowClient

NONE = "none"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
_RECORD = "tracking.json"

# A server that is down must cost seconds, and nobody asked to be counted.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def tracking_uri(asked: str | None, results: Path) -> str:
    """Where to track: the option, ``MLFLOW_TRACKING_URI``, or SQLite in the results folder."""
    chosen = asked or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"sqlite:///{(results / DATABASE).resolve()}"


class Tracker:
    """Uploads runs to one tracking store; a failure is told once and ends the uploading.

    Parameters
    ----------
    uri
        Tracking URI, or ``none``.
    results
        Results folder; artifacts of a local database go beside it.
    warn
        Told in one line when the store cannot be reached.
    """

    def __init__(self, uri: str, results: Path, warn: Callable[[str], None]) -> None:
        self._uri = uri
        self._results = results
        self._warn = warn
        self._client: MlflowClient | None = None
        self._off = uri == NONE

    def upload(self, run: StoredRun) -> None:
        """Upload a run and those of its finished folds that the store does not have yet.

        Never raises for a store that is down, slow or broken: the results are on disk.
        """
        if self._off:
            return
        known = self._known(run)
        versions = {str(i): run.folder.fold(i).version() for i in run.done}
        if known.get("folds") == versions:
            return
        try:
            self._upload(run, known, versions)
        except Exception as error:  # noqa: BLE001 - any failure of a tracking store costs a warning, not a run
            self._off = True
            reason = one_line(error)
            self._warn(
                f"tracking at {self._uri} failed ({type(error).__name__}: {reason});"
                " the results on disk are complete"
            )

    def _known(self, run: StoredRun) -> dict[str, Any]:
        record = read_record(run.folder.path / _RECORD).get(self._uri, {})
        return record if isinstance(record, dict) else {}

    def _upload(self, run: StoredRun, known: Mapping[str, Any], versions: dict[str, str]) -> None:
        client = self._connect()
        experiment = self._experiment(client, run.facts)
        parent = self._run(client, experiment, f"{run.facts['key']}", None, run.facts["label"])
        for index in run.done:
            if known.get("folds", {}).get(str(index)) != versions[str(index)]:
                self._upload_fold(client, experiment, parent, run, index)
        self._describe(client, parent, run)
        self._summarise(client, parent, run)
        path = run.folder.path / _RECORD
        record = read_record(path)
        record[self._uri] = {"run_id": parent, "folds": versions}
        write_record(path, record)

    def _connect(self) -> MlflowClient:
        if self._client is None:
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            for chatty in ("alembic", "mlflow"):
                logging.getLogger(chatty).setLevel(logging.WARNING)

            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _experiment(self, client: MlflowClient, facts: Mapping[str, Any]) -> str:
        name = f"{facts['dataset']}-{facts['protocol']}"
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self._uri.startswith("sqlite:"):
            location = (self._results / ARTIFACTS / name).resolve().as_uri()
        return str(
            client.create_experiment(
                name,
                artifact_location=location,
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        )

    def _run(
        self, client: MlflowClient, experiment: str, key: str, parent: str | None, name: str
    ) -> str:
        """The MLflow run of a key, made if there is none: uploading twice gives one run."""
        found = client.search_runs([experiment], f"tags.`spotbench.key` = '{key}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {
            "spotbench.key": key,
            "mlflow.source.name": "bench run",
            "mlflow.source.type": "LOCAL",
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)

    def _describe(self, client: MlflowClient, run_id: str, run: StoredRun) -> None:
        from mlflow.entities import Param, RunTag

        facts = run.facts
        named = ("label", "kind", "preset", "seed", "dataset", "protocol")
        params = {name: facts[name] for name in named}
        params |= {f"config.{key}": value for key, value in facts["config"].items()}
        tags = {
            "method": facts["label"],
            "kind": facts["kind"],
            "preset": facts["preset"],
            "dataset": facts["dataset"],
            "protocol": facts["protocol"],
            "dataset_hash": facts["dataset_hash"],
            "protocol_hash": facts["protocol_hash"],
            "folds_hash": facts["folds_hash"],
            "git_commit": facts["git_commit"] or "none",
            "folds_done": f"{len(run.done)}/{facts['n_folds']}",
        }
        tags |= {f"version.{name}": value for name, value in facts["packages"].items()}
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )

    def _upload_fold(
        self, client: MlflowClient, experiment: str, parent: str, run: StoredRun, index: int
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        fold = run.folder.fold(index)
        facts = fold.facts()
        name = f"{run.facts['label']} fold {index}"
        child = self._run(client, experiment, fold.key, parent, name)
        now = int(time.time() * 1000)
        metrics = [
            Metric(str(name), float(row[name]), now, int(row["epoch"]))
            for row in fold.read_table("curves.parquet").to_dict("records")
            for name in row
            if name != "epoch" and pd.notna(row[name])
        ]
        values = {**_fold_scores(fold), **facts["timings"]}
        values["peak_memory_mb"] = facts["peak_memory_mb"]
        values["peak_device_memory_mb"] = facts["peak_device_memory_mb"]
        metrics += [Metric(k, float(v), now, 0) for k, v in values.items() if pd.notna(v)]
        tags = {"method": run.facts["label"], "fold": index, "test": ",".join(facts["test"])}
        tags |= {"device": facts["device"], "folds_hash": run.facts["folds_hash"]}
        for start in range(0, max(len(metrics), 1), 900):  # the protocol's limit is 1,000
            client.log_batch(child, metrics=metrics[start : start + 900])
        client.log_batch(
            child,
            params=[Param("fold", str(index)), Param("test", tags["test"])],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prediction_maps.png"
            prediction_map(fold, path, f"{run.facts['label']} on {run.facts['dataset']}")
            client.log_artifact(child, str(path))
        client.set_terminated(child, "FINISHED")

    def _summarise(self, client: MlflowClient, run_id: str, run: StoredRun) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        row = score_table([run]).iloc[0]
        names = [n for score in SECTION_SCORES for n in (score, f"{score}_sd")]
        names += [*POOLED_SCORES, "undefined", "fit_seconds", "folds", "sections"]
        metrics = [Metric(n, float(row[n]), now, 0) for n in names if pd.notna(row[n])]
        client.log_batch(run_id, metrics=metrics)
        client.log_text(run_id, render([run], "csv"), "table.csv")
        client.log_text(run_id, render([run], "markdown"), "table.md")
        client.log_text(run_id, json.dumps(run.facts, indent=2), "run.json")
        complete = len(run.done) == run.facts["n_folds"]
        client.set_terminated(run_id, "FINISHED" if complete else "FAILED")


def _fold_scores(fold: FoldFolder) -> dict[str, float]:
    scores = fold.read_table("scores.parquet")
    of_sections = scores[scores["section"] != ""]
    values = of_sections.groupby("score")["value"].mean().to_dict()
    pooled = scores[scores["section"] == ""]
    values |= dict(zip(pooled["score"], pooled["value"], strict=True))
    for row in of_sections.itertuples():
        if row.score in SECTION_SCORES:
            values[f"section.{row.section!s}.{row.score!s}"] = row.value
    return {str(name): float(value) for name, value in values.items()}
