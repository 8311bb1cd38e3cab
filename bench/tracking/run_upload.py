"""A stored run as MLflow runs: one for the run, and one below it for each fold."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.card import DatasetCard
from bench.prediction.stored_models import fold_config
from bench.report.figures import prediction_map
from bench.report.presets import shown_preset, used_values
from bench.report.tables import render
from bench.store import MANIFEST, MODEL, FoldFolder
from bench.stored_runs import StoredRun
from bench.tracking import pages
from bench.tracking.batches import log_dataset, log_values
from bench.tracking.logged_bundle import DatasetOnHand
from bench.tracking.logged_files import DATA
from bench.tracking.model import save_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MODEL_LIMIT = 200 * 1024**2
"""Bytes of the largest fitted model that is uploaded."""

KEY = "spotbench.key"
VERSION = "spotbench.version"
_MAPS = "maps/predictions by fold"


@dataclass(frozen=True)
class RunUpload:
    """Uploads one stored run to an experiment.

    Attributes
    ----------
    client, experiment
        Store, and id of the experiment.
    run, card
        The run, and the card of its dataset, None if not available.
    check
        Function that raises when the upload has taken too long or its claim is lost.
    data
        The dataset, for what a model says of its training; None if not available.
    """

    client: MlflowClient
    experiment: str
    run: StoredRun
    card: DatasetCard | None
    check: Callable[[], None]
    data: DatasetOnHand | None = None

    def find(self, key: str) -> Run | None:
        """MLflow run with a key, None if there is none."""
        runs = self.client.search_runs([self.experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return runs[0] if runs else None

    def new_run(self, name: str, begin: int, tags: dict[str, str]) -> str:
        """Create an MLflow run; return its id."""
        self.check()
        from_us = {"mlflow.source.name": "bench run", "mlflow.source.type": "LOCAL"}
        made = self.client.create_run(self.experiment, begin, {**from_us, **tags}, run_name=name)
        return str(made.info.run_id)

    def upload_fold(self, parent: str, index: int) -> None:
        """Upload a finished fold below the run's own MLflow run, unless it is there."""
        from mlflow.entities import Metric

        fold = self.run.folder.fold(index)
        facts = fold.facts()
        begin, end = _times(fold)
        key = pages.fold_key(self.run.folder, index)
        identity = {KEY: key, VERSION: fold.version(), "mlflow.parentRunId": parent}
        existing = self.find(key)
        if existing is not None:
            if (
                existing.info.status == "FINISHED"
                and identity.items() <= existing.data.tags.items()
            ):
                return
            # Repeated since, or interrupted: MLflow's histories cannot be replaced, only extended.
            self._discard(existing)
        name = f"{self.run.facts['label']} fold {index}"
        child = self.new_run(name, begin, identity)
        tags = {"level": "fold", "method": self.run.facts["label"], "fold": str(index)}
        tags |= {"test": ",".join(facts["test"]), "device": facts["device"]}
        tags |= {"precision": facts["precision"]}
        tags |= {"kind": self.run.facts["kind"], "folds_hash": self.run.facts["folds_hash"]}
        params = {"fold": index, "test": tags["test"]}
        log_values(self.client, child, params=params, tags=tags)
        data = pages.dataset_input(self.run, self.card)
        log_dataset(self.client, child, data)
        self.check()
        model = self._upload_model(child, index)
        self.check()
        metrics = _curve_metrics(pages.fold_curves(fold), end)
        costs = pages.fold_costs(fold)
        metrics += [Metric(name, value, end, 0) for name, value in costs.items()]
        of_model = {"dataset_name": data.dataset.name, "dataset_digest": data.dataset.digest}
        of_model["model_id"] = model
        scores = pages.fold_scores(fold)
        metrics += [Metric(name, value, end, 0, **of_model) for name, value in scores.items()]
        self._log_metrics(child, metrics)
        self._upload_maps(parent, child, index)
        self.client.set_terminated(child, "FINISHED", end)

    def _discard(self, run: Run) -> None:
        run_id = run.info.run_id
        for model in self.client.search_logged_models(
            [self.experiment], f"source_run_id = '{run_id}'"
        ):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run_id)

    def _log_metrics(self, run_id: str, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), 900):  # the protocol's limit is 1,000
            self.client.log_batch(run_id, metrics=metrics[start : start + 900])
            self.check()

    def _upload_model(self, child: str, index: int) -> str | None:
        """Log the fitted model of a fold; return its id, None without a model to log."""
        from mlflow.entities import LoggedModelOutput

        folder = self.run.folder.fold(index).path / MODEL
        if not folder.is_dir():
            return None
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MODEL_LIMIT:
            said = f"not uploaded: {size >> 20} MB, more than {MODEL_LIMIT >> 20} MB"
            self.client.set_tag(child, "model", said)
            return None
        facts = self.run.facts
        name = re.sub(r"[^\w-]", "-", f"{facts['label']}-fold-{index}")
        tags = {name: facts[name] for name in ("method", "dataset", "protocol")}
        tags["preset"] = shown_preset(facts)
        genes = len(self.run.folder.fold(index).facts()["panel"])
        tags |= {"fold": str(index), pages.NOTE: pages.model_note(genes)}
        settings = {key: str(value) for key, value in fold_config(self.run, index).items()}
        model = self.client.create_logged_model(self.experiment, name, child, tags, settings)
        self.client.log_outputs(child, [LoggedModelOutput(model.model_id, step=0)])
        with tempfile.TemporaryDirectory() as made:
            description = Path(made) / "described"
            save_model(description, self.run, index, self.card, model.model_id, self.data)
            self.client.log_model_artifacts(model.model_id, str(description))
        self.check()
        self.client.log_model_artifacts(model.model_id, str(folder), f"{DATA}/{MODEL}")
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.set_tag(child, "model", model.model_uri)
        return str(model.model_id)

    def _upload_maps(self, parent: str, child: str, index: int) -> None:
        """Upload figures of a fold's predictions: all to `child`, the first section to `parent`."""
        fold = self.run.folder.fold(index)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prediction_maps.png"
            prediction_map(fold, path, f"{self.run.facts['label']} on {self.run.facts['dataset']}")
            self.client.log_artifact(child, str(path))
        self.check()
        end = _times(fold)[1]
        # MLflow's names of such images; a second upload would be shown twice.
        same = re.compile(rf"[+%]step[+%]{index}[+%]timestamp[+%]{end}[+%]")
        if any(same.search(item.path) for item in self.client.list_artifacts(parent, "images")):
            return
        picture = pages.compared_map(self.run, index)
        if picture is not None:
            self.client.log_image(parent, picture, key=_MAPS, step=index, timestamp=end)

    def describe(self, run_id: str) -> None:
        """Log settings, versions and data of the run."""
        facts = self.run.facts
        named = ("label", "kind", "seed", "dataset", "protocol")
        params = {name: facts[name] for name in named} | {"preset": shown_preset(facts)}
        params |= {f"config.{key}": value for key, value in facts["config"].items()}
        tags = {
            "level": "run",
            "method": facts["label"],
            "kind": facts["kind"],
            "preset": shown_preset(facts),
            "changes": json.dumps(used_values(facts)),
            "dataset": facts["dataset"],
            "protocol": facts["protocol"],
            "dataset_hash": facts["dataset_hash"],
            "protocol_hash": facts["protocol_hash"],
            "folds_hash": facts["folds_hash"],
            "git_commit": facts["git_commit"] or "none",
            "folds_done": f"{len(self.run.done)}/{facts['n_folds']}",
            "sections": facts["n_sections"],
            pages.NOTE: pages.run_note(self.run),
        }
        tags |= {f"version.{name}": value for name, value in facts["packages"].items()}
        log_values(self.client, run_id, params=params, tags=tags)
        log_dataset(self.client, run_id, pages.dataset_input(self.run, self.card))

    def summarise(self, run_id: str, status: str) -> None:
        """Log scores, curves and tables of the run over its finished folds, and its status."""
        from mlflow.entities import Metric

        times = [_times(self.run.folder.fold(index)) for index in self.run.done]
        last = max(end for _, end in times)
        values = pages.run_metrics(self.run)
        metrics = [Metric(name, value, last, 0) for name, value in values.items()]
        if status == "FINISHED":
            # Before the end they change with every fold, and MLflow would show every version.
            metrics += _curve_metrics(pages.mean_curves(self.run), last)
        self._log_metrics(run_id, metrics)
        self.client.log_text(run_id, render([self.run], "csv"), "table.csv")
        self.client.log_text(run_id, render([self.run], "markdown"), "table.md")
        self.client.log_text(run_id, json.dumps(self.run.facts, indent=2), "run.json")
        if status == "RUNNING":
            self.client.update_run(run_id, status)
        else:
            spent = sum(end - begin for begin, end in times)
            self.client.set_terminated(run_id, status, created_at(self.run) + spent)


def created_at(run: StoredRun) -> int:
    """Creation time of a run, in milliseconds since 1970."""
    return int(datetime.fromisoformat(run.facts["created"]).timestamp() * 1000)


def _times(fold: FoldFolder) -> tuple[int, int]:
    """Begin and end of a fold, in milliseconds since 1970; the same at every upload."""
    end = int((fold.path / MANIFEST).stat().st_mtime * 1000)
    return end - int(1000 * sum(fold.facts()["timings"].values())), end


def _curve_metrics(curves: Any, end: int) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(f"curves/{row.name}", float(row.value), end, int(row.epoch))
        for row in curves.itertuples(index=False)
    ]
