"""Stored runs as one file that another laboratory can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, DataError, UnknownNameError
from bench.files import one_line
from bench.inventory import GIVEN, given_name
from bench.method_references import split_encoder
from bench.protocol.folds import read_folds
from bench.report.tables import newest
from bench.sharing.archive import STUDY, SUFFIX, described, write_archive
from bench.sharing.portable import has_path, json_bytes, portable_fold, portable_run, record_bytes
from bench.store import MANIFEST, RUN, FoldFolder, folder_name, folds_folder
from bench.stored_runs import StoredRun, protocols_with_runs, stored_names, stored_runs
from bench.yaml_files import read_yaml

_TABLES = ("scores.parquet", "genes.parquet", "curves.parquet")
_PREDICTIONS = "predictions.h5ad"
_LONGEST_STUDY = 4 << 20


@dataclass(frozen=True)
class ExportRequest:
    """Which results are written to a file.

    Attributes
    ----------
    results, out
        Results folder, and the file to write.
    dataset, protocol, methods, run
        Only these, where named; `run` is the beginning of keys.
    predictions
        Whether the predictions go along, which hold the measured expression beside them.
    study
        YAML file that describes the comparison.
    """

    results: Path
    out: Path
    dataset: str | None = None
    protocol: str | None = None
    methods: tuple[str, ...] = ()
    run: str = ""
    predictions: bool = False
    study: Path | None = None


def export_results(
    request: ExportRequest, say: Callable[[str], None] = lambda line: None
) -> list[StoredRun]:
    """Write the newest runs of a results folder to one file; no path and no host name is in it.

    Runs that were imported are left out: they are exported where they were made.

    Returns
    -------
    list of StoredRun
        Runs in the file.

    Raises
    ------
    BenchError
        No such run, a damaged one, or a file that cannot be read or written.
    """
    if not request.out.name.endswith(SUFFIX):
        raise BenchError(f"{request.out}: the name of a results file ends in {SUFFIX}")
    runs = _chosen(request, say)
    members: dict[str, Path | bytes] = {}
    folders = []
    for run in runs:
        facts = run.facts
        where = f"{facts['dataset']}/{facts['protocol']}"
        folder = f"runs/{where}/{folder_name(facts['label'])}-{facts['key'][:12]}"
        folders.append(folder)
        members[f"{folder}/{RUN}"] = record_bytes(portable_run(facts))
        if name := given_name(run.folder.path):
            members[f"{folder}/{GIVEN}"] = record_bytes({"label": name})
        for index in run.done:
            fold = run.folder.fold(index)
            members |= {
                f"{folder}/fold-{index}/{name}": content
                for name, content in _fold_members(fold, request.predictions).items()
            }
        name = f"folds-{facts['folds_hash'][:12]}.json"
        path = folds_folder(request.results, facts["dataset"], facts["protocol"]) / name
        read_folds(path)
        members[f"folds/{where}/{name}"] = path
    if request.study is not None:
        members[STUDY] = _study(request.study)
    write_archive(request.out, folders, members)
    return runs


def _chosen(request: ExportRequest, say: Callable[[str], None]) -> list[StoredRun]:
    results = request.results
    stored = stored_names(results)
    if not stored:
        raise BenchError(f"{results}: no runs here; make some with 'bench run'")
    runs = []
    for dataset in [request.dataset] if request.dataset else sorted(stored):
        for protocol in protocols_with_runs(results, dataset, request.protocol):
            runs += newest(stored_runs(results, dataset, protocol, "figures"))
    labels = {str(run.facts["label"]) for run in runs}
    for name in request.methods:
        wanted = {label for label in labels if name in {label, split_encoder(label)[0]}}
        if not wanted:
            raise UnknownNameError(f"method with runs in {results}", name, labels)
    runs = [
        run
        for run in runs
        if run.facts["key"].startswith(request.run)
        and (
            not request.methods
            or {run.facts["label"], split_encoder(run.facts["label"])[0]} & {*request.methods}
        )
    ]
    if not runs and request.run:
        raise BenchError(f"{results}: no run has a key that begins with '{request.run[:64]}'")
    imported = sum(bool(run.origin) for run in runs)
    if imported == len(runs) and runs:
        raise BenchError(
            f"{results}: all {imported} runs were imported; export them where they were made"
        )
    if imported:
        say(f"{imported} imported runs are left out; export them where they were made")
    own = [run for run in runs if not run.origin]
    for run in own:
        for index, damage in sorted(run.damaged.items()):
            raise DataError(
                f"{run.facts['label']}, fold {index}: {damage}; the same 'bench run' does it again"
            )
    done = [run for run in own if run.done]
    if not done:
        raise BenchError(f"{results}: no run with a finished fold to export")
    return done


def _fold_members(fold: FoldFolder, predictions: bool) -> dict[str, Path | bytes]:
    """Files of a fold that go along, with a manifest of exactly these."""
    about = json_bytes(portable_fold(fold.facts()))
    files: dict[str, Path | bytes] = {"fold.json": about}
    names = (*_TABLES, *([_PREDICTIONS] if predictions else []))
    files |= {name: fold.path / name for name in names if (fold.path / name).is_file()}
    state = fold.state("figures")
    if not state.done:
        raise DataError(f"{fold.path}: {state.damage or 'not finished'}; run it again")
    manifest = {
        "run": fold.run_key,
        "fold": fold.index,
        "fit_key": state.fit_key,
        "score_key": state.score_key,
        "files": {name: described(of) for name, of in files.items()},
    }
    return {**files, MANIFEST: record_bytes(manifest)}


def _study(path: Path) -> bytes:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: a study file is a mapping of fields")
    text = path.read_bytes()
    if has_path(text.decode()):
        raise DataError(f"{path}: holds an absolute path, which does not go into a shared file")
    if len(text) > _LONGEST_STUDY:
        raise DataError(f"{one_line(path)}: larger than {_LONGEST_STUDY >> 20} MiB")
    return text
