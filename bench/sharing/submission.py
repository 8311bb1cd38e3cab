"""Checks of a results archive that is handed in for a leaderboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from pydantic import ValidationError

from bench.contract.suite import check_method
from bench.data.card import DatasetCard
from bench.data.folders import is_here
from bench.errors import BenchError, DataError
from bench.evaluate.metrics import nanmean, pearson_per_gene
from bench.evaluate.oracles import ORACLES
from bench.execute.audits import full_audit
from bench.files import listed, one_line
from bench.protocol.rules import STRICT, Protocol
from bench.registry import dataset_card, find_datasets, find_methods
from bench.sharing.archive import ResultsArchive, open_archive
from bench.sharing.reading import PREDICTIONS, ArchivedRun, read_runs
from bench.sharing.same_data import compare_data
from bench.staging import write_staged

Outcome = Literal["passed", "failed", "not run"]

_SAME_SCORE = 1e-4
"""Largest difference between a score and what follows from predictions stored as float32."""


@dataclass(frozen=True)
class CheckedClaim:
    """One check of a submission.

    Attributes
    ----------
    name
        What was checked.
    outcome
        ``passed``, ``failed`` or ``not run``.
    reason
        One line.
    """

    name: str
    outcome: Outcome
    reason: str


def check_submission(
    path: Path,
    *,
    card: DatasetCard | None = None,
    data_root: Path | None = None,
    contract: bool = True,
    say: Callable[[CheckedClaim], None] = lambda claim: None,
) -> list[CheckedClaim]:
    """Check an archive; checks after one of the file itself that fails are not run.

    Parameters
    ----------
    path
        File of ``bench export``.
    card, data_root
        A dataset that has no name here, and the folder of its files.
    contract
        Whether to run the contract of the methods, which takes longest.
    say
        Told each result.

    Raises
    ------
    DataError
        There is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    claims: list[CheckedClaim] = []

    def tell(name: str, outcome: Outcome, reason: str) -> None:
        claim = CheckedClaim(name, outcome, one_line(reason, 400))
        claims.append(claim)
        say(claim)

    try:
        with open_archive(path) as archive:
            runs = read_runs(archive)
            files = len(archive.index.files)
            tell("file", "passed", f"{len(runs)} runs, {files} files, all as their hashes say")
            for name, check in _CHECKS.items():
                tell(name, *check(_Submission(archive, tuple(runs), card, data_root)))
    except DataError as error:
        tell("file", "failed", str(error).removeprefix(f"{path}: "))
        for name in _CHECKS:
            tell(name, "not run", "the file is damaged")
        return claims
    if contract:
        for method in sorted({str(run.facts["method"]) for run in runs if run.facts["method"]}):
            tell(f"contract of {method}", *_contract(method))
    else:
        tell("contract", "not run", "left out by --no-contract")
    return claims


@dataclass(frozen=True)
class _Submission:
    archive: ResultsArchive
    runs: tuple[ArchivedRun, ...]
    card: DatasetCard | None
    data_root: Path | None


_Told = tuple[Outcome, str]


def _protocol(of: _Submission) -> _Told:
    other = [
        f"{run.label} ({run.facts['protocol']})"
        for run in of.runs
        if (run.facts["protocol"], run.facts["protocol_hash"]) != (STRICT.name, STRICT.hash)
    ]
    if other:
        return "failed", f"not under protocol {STRICT.name} of this version: {listed(other)}"
    return "passed", f"all runs are under protocol {STRICT.name}"


def _folds(of: _Submission) -> _Told:
    missing = [
        f"{run.label} ({len(run.done)} of {run.facts['n_folds']})"
        for run in of.runs
        if len(run.done) < int(run.facts["n_folds"])
    ]
    if missing:
        return "failed", f"folds are missing: {listed(missing)}"
    return "passed", f"all {sum(len(run.done) for run in of.runs)} folds are there"


def _data(of: _Submission) -> _Told:
    comparisons = compare_data(of.runs, card=of.card, data_root=of.data_root)
    different = [one.said for one in comparisons if one.differences]
    if different:
        return "failed", different[0]
    unknown = [one.said for one in comparisons if one.unknown]
    if unknown:
        return "not run", unknown[0]
    return "passed", "; ".join(one.said for one in comparisons)


def _audit(of: _Submission) -> _Told:
    """Findings that the archive states, and those of the data, where they are here."""
    for run in of.runs:
        for finding in run.facts.get("audit", ()):
            if finding["forbidden"]:
                return "failed", f"{run.label}: {finding['message']}"
    unseen = set()
    for run in {
        (run.facts["dataset"], run.facts["protocol_hash"]): run for run in of.runs
    }.values():
        card = _card(of, run)
        if isinstance(card, str):
            unseen.add(f"{run.facts['dataset']}: {card}")
            continue
        root = of.data_root if card is of.card else None
        try:
            rules = Protocol.model_validate(run.facts["rules"])
            _, _, findings = full_audit(card, rules, root)
        except (BenchError, ValidationError, KeyError) as error:
            unseen.add(f"{run.facts['dataset']}: {one_line(error)}")
            continue
        for found in findings:
            if found.forbidden:
                return "failed", f"{card.name}: {found.message}"
    if unseen:
        return "not run", f"the data were not audited ({listed(sorted(unseen))})"
    return "passed", "no finding that the protocol forbids"


def _card(of: _Submission, run: ArchivedRun) -> DatasetCard | str:
    """Card of a run's dataset, or why its data are not here."""
    name = run.facts["dataset"]
    if run.facts.get("test_dataset"):
        return "the test is on another dataset"
    if of.card is not None and of.card.name == name:
        return of.card
    if name not in find_datasets():
        return "not known here"
    card = dataset_card(name)
    return card if is_here(card, None) else "not here"


def _isolation(of: _Submission) -> _Told:
    for run in of.runs:
        for index in run.done:
            about = of.archive.json(f"{run.folder}/fold-{index}/fold.json")
            if about.get("isolation") == "none":
                return "failed", f"{run.label}, fold {index}: fitted in the process of the truth"
    return "passed", "no fit says that it saw the truth of the test sections"


def _scores(of: _Submission) -> _Told:
    """Compare correlations with what follows from the predictions, where they are there."""
    compared = 0
    with TemporaryDirectory(prefix="spotbench-submission-") as folder:
        for run in of.runs:
            for index in run.done:
                name = f"fold-{index}/{PREDICTIONS}"
                if name not in run.files:
                    continue
                path = Path(folder) / PREDICTIONS
                write_staged(path, of.archive.read(f"{run.folder}/{name}"))
                stated = of.archive.read(f"{run.folder}/fold-{index}/scores.parquet")
                number, fault = _compare_scores(path, stated)
                compared += number
                if fault:
                    return "failed", f"{run.label}, fold {index}: {fault}"
    if not compared:
        return "not run", "no predictions in the file; export them with --with-predictions"
    return "passed", f"PCC(ACG) of {compared} sections follows from the predictions"


def _compare_scores(path: Path, stated: bytes) -> tuple[int, str]:
    """Number of compared sections, and the first fault."""
    import io

    import anndata
    import pandas as pd

    try:
        stored = anndata.read_h5ad(path)
        sections = stored.obs["section"].to_numpy().astype(str)
        truth, predicted = np.asarray(stored.layers["truth"]), np.asarray(stored.X)
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        return 0, f"predictions cannot be read ({one_line(error, 80)})"
    scores = pd.read_parquet(io.BytesIO(stated))
    chosen = scores[scores["score"] == "pcc_acg"]
    known = dict(zip(chosen["section"], chosen["value"], strict=True))
    names = sorted({*sections})
    for name in names:
        here = sections == name
        own = (
            nanmean(pearson_per_gene(truth[here], predicted[here])) if here.sum() > 2 else math.nan
        )
        told = float(known.get(name, math.nan))
        if np.isnan(own) != np.isnan(told) or abs(own - told) > _SAME_SCORE:
            return len(names), f"PCC(ACG) of section {name} is {own:.4f}, not {told:.4f}"
    return len(names), ""


def _contract(method: str) -> _Told:
    if method in ORACLES:
        return "not run", "an oracle keeps no contract"
    if method not in find_methods():
        return "not run", "the method is not installed here"
    results = check_method(method, demo=False)
    failed = [result for result in results if result.outcome == "failed"]
    if failed:
        return "failed", f"{failed[0].title}: {failed[0].reason}"
    passed = sum(result.outcome == "passed" for result in results)
    return "passed", f"{passed} checks of the code installed here"


_CHECKS: dict[str, Callable[[_Submission], _Told]] = {
    "protocol": _protocol,
    "folds": _folds,
    "data": _data,
    "audit": _audit,
    "isolation": _isolation,
    "scores": _scores,
}


def has_failed(claims: Sequence[CheckedClaim]) -> bool:
    """Whether any check has failed."""
    return any(claim.outcome == "failed" for claim in claims)
