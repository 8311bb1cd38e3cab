"""Time and memory of what reads many stored runs: export, import, table, and site.

    python -m benchmarks.sharing --runs 500 --sources 2           # merging two laboratories
    python -m benchmarks.sharing --runs 1000 --datasets 10 --site

Runs are copies of those on the demo under other keys, settings and datasets; a few variants
of their scores are drawn at random around the true ones.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.execute.request import Request
from bench.execute.run import run_request
from bench.protocol.folds import Folds, read_folds, write_folds
from bench.records import read_json
from bench.sharing.archive import described
from bench.sharing.portable import record_bytes
from bench.staging import write_staged
from bench.store import MANIFEST, RUN, folds_folder, run_folder
from bench.stored_runs import StoredRun

METHODS = 40
"""Different names of rows on a dataset."""

_VARIANTS = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate folders, time the commands on them, and print one JSON object."""
    asked = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="spotbench-sharing-") as name:
        folder = Path(name) if asked.keep is None else asked.keep
        print(json.dumps(measure(asked, folder), indent=2))  # noqa: T201


def parser() -> argparse.ArgumentParser:
    """Options of the program."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--runs", type=int, default=500, help="runs of a source on each dataset")
    made.add_argument("--datasets", type=int, default=1, help="datasets")
    made.add_argument("--sources", type=int, default=1, help="laboratories that are merged")
    made.add_argument("--site", action="store_true", help="write the site instead of merging")
    made.add_argument("--keep", type=Path, help="folder that is kept")
    return made


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds and largest memory of each command."""
    sources = [
        generate(folder / f"source-{number}", asked.runs, asked.datasets, number)
        for number in range(asked.sources)
    ]
    figures: dict[str, Any] = {"runs": asked.runs, "datasets": asked.datasets}
    if asked.site:
        where = [str(source) for source in sources]
        figures["site"] = timed("site", *where, "--out", str(folder / "public"))
        return figures
    merged = folder / "merged"
    for number, source in enumerate(sources):
        out = folder / f"{number}.spotbench.zip"
        if not out.exists():
            figures[f"export {number}"] = timed(
                *("export", "--results", str(source)), "--out", str(out)
            )
        figures[f"import {number}"] = timed("import", str(out), "--results", str(merged))
    names = [f"demo-{number}" for number in range(asked.datasets)]
    for name in names[:1]:
        more = ("--format", "json", "--results", str(merged))
        figures["table"] = timed("tables", "--dataset", name, *more)
    return figures


_CALL = """
import resource, sys
from bench.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
"""


def timed(*arguments: str) -> dict[str, float]:
    """Seconds and memory of a command in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-P", "-c", _CALL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"bench {' '.join(arguments)}: {done.stderr}")
    used, memory = map(float, done.stdout.splitlines()[-1].split())
    return {
        "seconds": round(seconds, 2),
        "cpu seconds": round(used, 2),
        "memory MB": round(memory / 1024, 1),
    }


def generate(results: Path, runs: int, datasets: int, source: int) -> Path:
    """A results folder with as many runs on each dataset."""
    if results.exists():
        return results
    with tempfile.TemporaryDirectory(prefix="spotbench-demo-") as name:
        done = run_request(
            Request(("ridge",), "demo", preset="quick", results=Path(name), device="cpu")
        )
        models = [run for run in done.runs if run.facts["label"] == "ridge"]
        facts = models[0].facts
        place = folds_folder(Path(name), facts["dataset"], facts["protocol"])
        folds = read_folds(place / f"folds-{facts['folds_hash'][:12]}.json")
        variants = [_variant(models[0], number) for number in range(_VARIANTS)]
        for dataset in range(datasets):
            own = folds.model_copy(update={"dataset": f"demo-{dataset}"})
            write_folds(folds_folder(results, own.dataset, own.protocol), own)
            for number in range(runs):
                _write(results, models[0], own, variants[number % _VARIANTS], number, source)
    return results


Tables = dict[int, dict[str, bytes]]


def _variant(run: StoredRun, number: int) -> Tables:
    """Tables of each fold; the scores and correlations are moved a little."""
    rng = np.random.default_rng(number)
    files: Tables = {}
    for index in run.done:
        fold = run.folder.fold(index)
        scores, genes = (fold.read_table(name) for name in ("scores.parquet", "genes.parquet"))
        scores["value"] += rng.normal(0, 0.01, len(scores))
        genes["pcc"] = np.clip(genes["pcc"] + rng.normal(0, 0.05, len(genes)), -1, 1)
        files[index] = {"fold.json": (fold.path / "fold.json").read_bytes()}
        for name, table in (("scores.parquet", scores), ("genes.parquet", genes)):
            stream = io.BytesIO()
            table.to_parquet(stream, index=False)
            files[index][name] = stream.getvalue()
    return files


def _write(
    results: Path, run: StoredRun, folds: Folds, variant: Tables, number: int, source: int
) -> None:
    key = hashlib.sha256(f"{folds.dataset} {number} {source}".encode()).hexdigest()
    day = pd.Timestamp("2026-01-01") + pd.Timedelta(number, "h")
    facts = {
        **run.facts,
        "key": key,
        "label": f"method-{number % METHODS}",
        "config": {"strength": number // METHODS},
        "dataset": folds.dataset,
        "folds_hash": folds.hash,
        "created": day.isoformat(),
    }
    made = run_folder(results, folds.dataset, folds.protocol, facts["label"], key)
    # Without flushing each of the many files to disk.
    write_staged(made.path / RUN, record_bytes(facts))
    for index, files in variant.items():
        old = read_json(run.folder.fold(index).path / MANIFEST) or {}
        for name, content in files.items():
            write_staged(made.fold(index).path / name, content)
        manifest = {
            "run": key,
            "fold": index,
            **{name: old[name] for name in ("fit_key", "score_key")},
            "files": {name: described(content) for name, content in files.items()},
        }
        write_staged(made.fold(index).path / MANIFEST, record_bytes(manifest))


if __name__ == "__main__":
    main()
