"""One fold of a stored run made again, and compared with what is stored."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from bench.errors import BenchError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.execute.executors.base import JobWatcher
from bench.execute.method_specs import RELEASED, TUNED
from bench.execute.request import FoldSettings, Request
from bench.execute.run import run_request
from bench.files import atomic_write
from bench.method_references import SHUFFLED, is_own, split_encoder, split_ensemble
from bench.protocol.rules import PROTOCOLS
from bench.registry import dataset_card, dataset_name, find_methods
from bench.report.repeats import Agreement, agreement
from bench.sharing import DEFAULT_TOLERANCE
from bench.store import RUN, RunFolder, read_run
from bench.stored_runs import PREDICTIONS, StoredRun, stored_names, stored_run


@dataclass(frozen=True)
class VerifyRequest:
    """Which fold of which run is made again.

    Attributes
    ----------
    key
        First characters of the run's key; may be empty where the rest names one run.
    results, dataset, protocol, method
        Where it is stored. `method` is its row, or the file of a method that is not installed.
    fold
        Number of the fold; None: the first that is done.
    tolerance
        Largest difference of predictions and scores that counts as the same.
    data_root, aliases, checkpoint, device
        As of ``bench run``.
    """

    key: str = ""
    results: Path = Request.results
    dataset: str | None = None
    protocol: str | None = None
    method: str | None = None
    fold: int | None = None
    tolerance: float = DEFAULT_TOLERANCE
    data_root: Path | None = None
    aliases: Path | None = None
    checkpoint: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Verification:
    """Result of making a fold again.

    Attributes
    ----------
    label, dataset, protocol, fold, key
        What was made again; `key` is the stored one.
    key_now
        Key that the run would have now.
    changes
        What differs from the stored run: packages, data, rules, settings, device, code.
    predictions
        Largest absolute difference of a prediction; NaN where none is stored, infinite where
        spots or genes differ.
    compared
        Number of predictions.
    scores
        Largest difference of a section's score.
    tolerance
        Largest difference that counts as the same.
    failure
        Why the method failed; empty where it did not.
    """

    label: str
    dataset: str
    protocol: str
    fold: int
    key: str
    key_now: str
    changes: tuple[str, ...]
    predictions: float
    compared: int
    scores: Agreement
    tolerance: float
    failure: str = ""

    @property
    def reproduced(self) -> bool:
        """Whether predictions and scores are the same within the tolerance."""
        same = math.isnan(self.predictions) or self.predictions <= self.tolerance
        return not self.failure and same and self.scores.difference <= self.tolerance


def verify(request: VerifyRequest, watcher: JobWatcher | None = None) -> Verification:
    """Fit one fold of a stored run again, in a temporary folder, and compare.

    Raises
    ------
    BenchError
        No such run or fold, or one that cannot be made again from what is stored.
    """
    if not request.tolerance >= 0:
        raise BenchError(f"--tolerance {request.tolerance}: write a number from 0")
    run = find_stored(request)
    fold = _fold(run, request.fold)
    facts = run.facts
    with TemporaryDirectory(prefix="spotbench-verify-", ignore_cleanup_errors=True) as folder:
        done = run_request(_as_request(run, fold, request, Path(folder)), watcher=watcher)
        (planned,) = done.plan.runs
        made = stored_run(planned.folder, "run")
        assert made is not None  # its record is written before its jobs
        failure = "; ".join(failed.reason for failed in done.failures)
        predictions, compared = (math.nan, 0) if failure else _predictions(run, made, fold)
        scores = Agreement(math.nan) if failure else agreement(_only(run, fold), made)
        changes = _changes(run, made, fold)
        return Verification(
            label=facts["label"],
            dataset=facts["dataset"],
            protocol=facts["protocol"],
            fold=fold,
            key=facts["key"],
            key_now=planned.folder.key,
            changes=tuple(changes),
            predictions=predictions,
            compared=compared,
            scores=scores,
            tolerance=request.tolerance,
            failure=failure,
        )


def find_stored(request: VerifyRequest) -> StoredRun:
    """The run that a request names; of equal keys, that made here.

    Raises
    ------
    BenchError
        None, or several.
    """
    stored = stored_names(request.results)
    if not stored:
        raise BenchError(f"{request.results}: no runs here; make some with 'bench run'")
    dataset = _stored_dataset(request, stored)
    runs: dict[str, StoredRun] = {}
    labels: set[str] = set()
    for folder in _folders(request, stored, dataset):
        facts = read_run(folder)
        if facts is None or not facts["key"].startswith(request.key):
            continue
        labels.add(facts["label"])
        names = {None, facts["label"], split_encoder(facts["label"])[0]}
        if request.method not in names and not is_own(str(request.method)):
            continue
        run = stored_run(RunFolder(folder, facts["key"]), "tables")
        if run is not None and (facts["key"] not in runs or not run.origin):
            runs[facts["key"]] = run
    if not runs and labels and request.method:
        raise UnknownNameError(f"method with runs in {request.results}", request.method, labels)
    if not runs:
        raise BenchError(f"{request.results}: no run has a key that begins with '{request.key}'")
    if len(runs) > 1:
        shown = "; ".join(
            f"{run.facts['label']} on {run.facts['dataset']}: {key[:8]}"
            for key, run in list(runs.items())[:6]
        )
        raise BenchError(f"{len(runs)} runs; write more of the key of one: {shown}")
    return next(iter(runs.values()))


def _stored_dataset(request: VerifyRequest, stored: Mapping[str, list[str]]) -> str | None:
    if request.dataset is None:
        return None
    is_card = request.dataset.endswith((".yaml", ".yml"))
    name = dataset_card(request.dataset).name if is_card else dataset_name(request.dataset)
    if name not in stored:
        raise UnknownNameError(f"dataset in {request.results}", name, stored)
    return name


def _folders(
    request: VerifyRequest, stored: Mapping[str, list[str]], dataset: str | None
) -> Iterator[Path]:
    """Folders of runs that may be meant: a folder's name holds the first 12 characters."""
    for name, protocols in stored.items():
        for protocol in protocols if dataset in {None, name} else ():
            if request.protocol in {None, protocol}:
                for path in sorted((request.results / "runs" / name / protocol).glob(f"*/{RUN}")):
                    if f"-{request.key[:12]}" in path.parent.name:
                        yield path.parent


def _fold(run: StoredRun, asked: int | None) -> int:
    label = run.facts["label"]
    if not run.done:
        damage = next(iter(run.damaged.values()), "")
        raise BenchError(f"{label}: no finished fold{f' ({damage})' if damage else ''}")
    if asked is None:
        return run.done[0]
    if asked not in run.done:
        finished = ", ".join(map(str, run.done))
        damage = run.damaged.get(asked, "not finished")
        raise BenchError(f"{label}: fold {asked} is {damage}; finished: {finished}")
    return asked


def _as_request(run: StoredRun, fold: int, request: VerifyRequest, folder: Path) -> Request:
    """The request that makes a fold of a stored run again."""
    facts = run.facts
    label = str(facts["label"])
    if split_ensemble(label):
        raise BenchError(f"{label}: an ensemble averages other rows; verify those")
    if "aliases" in facts and request.aliases is None:
        raise BenchError(f"{label}: genes were renamed by a table; name it with --aliases")
    checkpoint = request.checkpoint if label.startswith(f"{RELEASED}:") else None
    if label.startswith(f"{RELEASED}:") and checkpoint is None:
        raise BenchError(f"{label}: weights were imported; name their file with --checkpoint")
    method = _reference(label, request.method)
    name = facts.get("method")
    if name and name not in find_methods() and not is_own(str(request.method)):
        raise BenchError(
            f"{label}: its method is not installed here; name its Python file, such as --method"
            f" ./{name}.py"
        )
    dataset = request.dataset or facts["dataset"]
    tuned = {}
    if facts.get("tuned"):
        settings = {int(n): FoldSettings(config) for n, config in facts["tuned"].items()}
        tuned = {method: settings}
    return Request(
        methods=(method,),
        dataset=dataset,
        protocol=_protocol(facts, folder),
        aliases=request.aliases,
        folds=(fold,),
        preset=facts["preset"] if facts["preset"] != "-" else Request.preset,
        settings={} if tuned or label in ORACLES else _settings(facts, method),
        seed=int(facts["seed"]),
        device=request.device,
        precision=facts.get("precision", "auto"),
        compile=bool(facts.get("compile", False)),
        data_root=request.data_root,
        results=folder / "results",
        oracles=False,
        checkpoint=checkpoint,
        tuned=tuned,
        test_dataset=facts["test_dataset"]["name"] if facts.get("test_dataset") else None,
        train_patients=(facts["train_patients"],) if facts.get("train_patients") else (),
    )


def _reference(label: str, given: str | None) -> str:
    """Method of a row as a request names it."""
    plain = label.removeprefix(f"{TUNED}:").removeprefix(f"{RELEASED}:")
    if not given or not is_own(given):
        return plain
    shuffled = plain.startswith(f"{SHUFFLED}:")
    encoder = split_encoder(plain)[1]
    named = f"{given}[{encoder}]" if encoder else given
    return f"{SHUFFLED}:{named}" if shuffled else named


def _settings(facts: Mapping[str, Any], method: str) -> dict[str, Any]:
    """All settings of a run, whatever presets say now."""
    _, encoder = split_encoder(method)
    config = dict(facts["config"])
    if encoder:
        config.pop("encoder", None)  # the name of the row has it
    return config


def _protocol(facts: Mapping[str, Any], folder: Path) -> str:
    """Rules of a run: by name where those of the name are the same, else as a file."""
    name, rules = str(facts["protocol"]), facts.get("rules")
    tested = facts.get("test_dataset")
    if tested:  # its rules are those of another protocol, under a name of their own
        if tested["protocol"] not in PROTOCOLS:
            raise BenchError(f"{facts['label']}: protocol {tested['protocol']} is not built in")
        return str(tested["protocol"])
    if name in PROTOCOLS and PROTOCOLS[name].hash == facts["protocol_hash"]:
        return name
    if not isinstance(rules, Mapping) or name in PROTOCOLS:
        raise BenchError(
            f"{facts['label']}: its protocol {name} is of an earlier version, whose rules this"
            " version does not have"
        )
    path = folder / "rules.yaml"
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(dict(rules)), encoding="utf-8")
    return str(path)


def _only(run: StoredRun, fold: int) -> StoredRun:
    return StoredRun(run.folder, run.facts, (fold,))


def _predictions(run: StoredRun, made: StoredRun, fold: int) -> tuple[float, int]:
    """Largest difference of predictions, and their number; NaN where none is stored."""
    import anndata

    if fold not in run.predicted:
        return math.nan, 0
    old, new = (anndata.read_h5ad(of.folder.fold(fold).path / PREDICTIONS) for of in (run, made))
    if list(old.obs_names) != list(new.obs_names) or list(old.var_names) != list(new.var_names):
        return math.inf, 0
    values = [np.asarray(of.X, dtype=np.float64) for of in (old, new)]
    gaps = np.abs(values[0] - values[1])
    return (float(gaps.max()) if gaps.size else 0.0), int(gaps.size)


_IN_THE_KEY = {
    "folds_hash": "folds",
    "protocol_hash": "rules of the protocol",
    "dataset_hash": "files of the dataset",
    "precision": "precision",
}


def _changes(run: StoredRun, made: StoredRun, fold: int) -> list[str]:
    """What is not as it was when the run was made, one line each."""
    then, now = run.facts, made.facts
    about_then, about_now = (of.folder.fold(fold).facts() for of in (run, made))
    lines = [
        _line(what, str(then.get(name, "unknown"))[:12], str(now.get(name, "unknown"))[:12])
        for name, what in _IN_THE_KEY.items()
    ]
    packages = then.get("packages", {})
    lines += [
        _line(f"package {name}", packages.get(name, "unknown"), version)
        for name, version in sorted(now["packages"].items())
    ]
    own, config = (of.get("tuned", {}).get(str(fold), of["config"]) for of in (then, now))
    lines += [
        _line(f"setting {name}", own.get(name), config.get(name))
        for name in sorted({*own, *config})
    ]
    python = about_then.get("machine", {}).get("python", "unknown")
    lines.append(
        _line("python", python.rpartition(".")[0], ".".join(map(str, sys.version_info[:2])))
    )
    if then["key"] != now["key"] and not any(lines):
        lines.append("code of the method or the harness, or a package that is not recorded")
    lines.append(
        _line(
            "counts or their reader",
            str(then.get("tables_hash", "unknown"))[:12],
            str(now["tables_hash"])[:12],
        )
    )
    if made.done:
        lines += [
            _line(name, about_then.get(name), about_now.get(name)) for name in ("device", "threads")
        ]
    return [line for line in lines if line]


def _line(what: str, then: Any, now: Any) -> str:
    return "" if then == now else f"{what}: {then} then, {now} now"
