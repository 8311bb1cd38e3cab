"""The runs of a results folder: what there is, removing some of it, and names given to rows."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import SoftFileLease

from bench.claims import DURATION, claim
from bench.errors import BenchError, StoreError, UnknownNameError
from bench.method_references import split_encoder
from bench.records import read_record, write_record
from bench.store import RUN, RunFolder, not_writable, read_run
from bench.stored_runs import StoredRun, stored_run

GIVEN = "label.json"
"""File in the folder of a run with the name that its row was given."""

LONGEST_NAME = 120
"""Limit on the characters of a name that a row is given."""

_SHORTEST_KEY = 4

RunState = Literal["done", "partial", "failed", "empty", "damaged", "in use"]

STATES: tuple[RunState, ...] = ("done", "partial", "failed", "empty", "damaged", "in use")
"""States of a run: all folds finished; some; none, and one failed; none; a record that is damaged
or was edited; a process works on it."""


@dataclass(frozen=True)
class RunEntry:
    """A run as it lies on disk.

    Attributes
    ----------
    path
        Its folder.
    dataset, protocol
        Names of the folders it lies in.
    label, given
        Label of its row, and the name that the row was given; empty where there is none.
    key
        Its key; of a damaged run the part that its folder's name has.
    state
        See :data:`STATES`.
    done, folds
        Number of finished folds, of so many.
    size
        Bytes of its files.
    created
        When it was first made, empty if that is not known.
    reason
        Why a fold failed or is damaged, empty for none.
    preset
        Its preset, marked if settings were changed; empty if that is not known.
    seed
        Its seed; None if that is not known.
    """

    path: Path
    dataset: str
    protocol: str
    label: str
    given: str
    key: str
    state: RunState
    done: int
    folds: int
    size: int
    created: str
    reason: str
    preset: str = ""
    seed: int | None = None


def list_runs(results: Path) -> list[RunEntry]:
    """All runs of a results folder, by dataset, protocol and age; damaged ones too."""
    entries = [_entry(path) for path in (results / "runs").glob("*/*/*") if path.is_dir()]
    return sorted(
        entries, key=lambda entry: (entry.dataset, entry.protocol, entry.created, entry.path)
    )


def _entry(path: Path) -> RunEntry:
    protocol, dataset = path.parent.name, path.parents[1].name
    facts = read_run(path)
    run = stored_run(RunFolder(path, str(facts["key"]))) if facts else None
    size = sum(
        os.lstat(Path(folder) / name).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )
    if facts is None or run is None:
        label, _, key = path.name.rpartition("-")
        return RunEntry(
            path, dataset, protocol, label, "", key, "damaged", 0, 0, size, "",
            f"{RUN} is missing, damaged or was edited",
        )  # fmt: skip
    folds = int(facts["n_folds"])
    failures = [f for f in (run.folder.fold(n).failure() for n in range(folds)) if f]
    damages = [f"fold {index}: {damage}" for index, damage in run.damaged.items()]
    state: RunState
    if any(_is_claimed(run.folder.fold(index).claim_file) for index in range(folds)):
        state = "in use"
    elif damages:
        state = "damaged"
    elif len(run.done) == folds:
        state = "done"
    elif run.done:
        state = "partial"
    else:
        state = "failed" if failures else "empty"
    return RunEntry(
        path,
        dataset,
        protocol,
        str(facts["label"]),
        given_name(path),
        str(facts["key"]),
        state,
        len(run.done),
        folds,
        size,
        str(facts.get("created") or ""),
        next(iter([*damages, *failures]), ""),
        f"{facts['preset']}{'*' * bool(facts.get('changes'))}",
        int(facts["seed"]),
    )


def _is_claimed(path: Path) -> bool:
    """Whether a process works on a fold; one of this machine that has ended does not."""
    if not path.exists():
        return False
    owner = SoftFileLease(path, lease_duration=DURATION).owner
    if owner is None or owner.hostname.partition("?")[0] != socket.gethostname():
        return owner is not None
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def chosen_runs(
    entries: Sequence[RunEntry],
    *,
    keys: Sequence[str] = (),
    methods: Sequence[str] = (),
    states: Sequence[str] = (),
    dataset: str | None = None,
    protocol: str | None = None,
) -> list[RunEntry]:
    """Runs that meet every condition given.

    Parameters
    ----------
    entries
        Result of :func:`list_runs`.
    keys
        Beginnings of keys, of at least four characters.
    methods
        Labels, methods without their encoder, or names given to rows.
    states
        Some of :data:`STATES`.
    dataset, protocol
        Names.

    Raises
    ------
    UnknownNameError
        No run has the key, the method, the dataset or the protocol.
    BenchError
        A key is too short, or several runs begin with it.
    """
    for name, wanted, known in (
        ("dataset", dataset, {entry.dataset for entry in entries}),
        ("protocol", protocol, {entry.protocol for entry in entries}),
    ):
        if wanted is not None and wanted not in known:
            raise UnknownNameError(f"{name} with runs", wanted, known)
    chosen = [
        entry
        for entry in entries
        if dataset in {None, entry.dataset} and protocol in {None, entry.protocol}
    ]
    for method in methods:
        if not any(_is_of(entry, method) for entry in chosen):
            names = {entry.given or entry.label for entry in chosen}
            raise UnknownNameError("row with runs", method, names)
    if methods:
        chosen = [entry for entry in chosen if any(_is_of(entry, name) for name in methods)]
    if keys:
        by_key = [run_of_key(chosen, key) for key in keys]
        chosen = list(dict.fromkeys(by_key))
    return [entry for entry in chosen if not states or entry.state in states]


def _is_of(entry: RunEntry, method: str) -> bool:
    return method in {entry.label, entry.given, split_encoder(entry.label)[0]}


def run_of_key(entries: Sequence[RunEntry], key: str) -> RunEntry:
    """The run whose key begins with some characters.

    Raises
    ------
    UnknownNameError
        There is none.
    BenchError
        The beginning is too short, or there are several.
    """
    if len(key) < _SHORTEST_KEY:
        raise BenchError(f"key '{key}': write at least its first {_SHORTEST_KEY} characters")
    found = [entry for entry in entries if entry.key.startswith(key)]
    if not found:
        raise UnknownNameError("key", key, [entry.key[:12] for entry in entries])
    if len(found) > 1:
        raise BenchError(
            f"{len(found)} runs have keys that begin with '{key}': "
            + ", ".join(entry.key[:12] for entry in found)
        )
    return found[0]


def remove_run(results: Path, entry: RunEntry) -> None:
    """Remove the folder of a run and the folders above it that are empty then.

    Raises
    ------
    StoreError
        A process works on it, it lies outside the results folder, or it cannot be removed.
    """
    root = results.resolve() / "runs"
    place = root / entry.dataset / entry.protocol / entry.path.name
    if entry.path.is_symlink() or entry.path.resolve() != place:
        raise StoreError(f"{entry.path}: lies outside of {results}; nothing of it is removed")
    try:
        with ExitStack() as held:
            for index in range(entry.folds):
                held.enter_context(claim(RunFolder(place, entry.key).fold(index).claim_file))
            # Without its record no table reads what is left if the process is killed.
            (place / RUN).unlink(missing_ok=True)
            for path in sorted(place.iterdir()):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.suffix != ".claim":
                    path.unlink()
        for path in place.glob("*.claim"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise not_writable(place, error) from error
    for folder in (place, place.parent, place.parents[1]):
        with suppress(OSError):  # not empty
            folder.rmdir()


def given_name(path: Path) -> str:
    """Name that the row of a run was given; empty where there is none."""
    name = read_record(path / GIVEN).get("label")
    return name if isinstance(name, str) else ""


def name_run(entries: Sequence[RunEntry], entry: RunEntry, name: str) -> None:
    """Give a row a name in tables, or take it back with an empty one.

    The name is kept in a file of its own, of which no key depends.

    Raises
    ------
    BenchError
        The name is too long, blank, or that of another row on the dataset under the protocol.
    StoreError
        It cannot be written.
    """
    path = entry.path / GIVEN
    try:
        if not name:
            path.unlink(missing_ok=True)
            return
        if not name.strip() or len(name) > LONGEST_NAME:
            raise BenchError(f"a label has 1 to {LONGEST_NAME} characters, not all of them blank")
        for other in entries:
            same = (other.dataset, other.protocol) == (entry.dataset, entry.protocol)
            if same and other.path != entry.path and name in {other.given, other.label}:
                raise BenchError(
                    f"run {other.key[:12]} on {other.dataset}, protocol {other.protocol}, is named"
                    f" '{name}' already"
                )
        write_record(path, {"label": name.strip()})
    except OSError as error:
        raise not_writable(path, error) from error


def named_runs(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Runs with the names that their rows were given in place of their labels.

    The label by which a run is found is kept as ``method_label``.
    """
    named = []
    for run in runs:
        name = given_name(run.folder.path)
        facts = {**run.facts, "label": name, "method_label": run.facts["label"]}
        named.append(replace(run, facts=facts) if name else run)
    return named


def without_replaced(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Runs without those that failed and that a later run of the method has replaced.

    A run failed if no fold is finished and one has failed; it is replaced by a run that was made
    later with the same label and has a finished fold.
    """
    latest: dict[str, str] = {}
    for run in runs:
        if run.done:
            label, made = str(run.facts["label"]), str(run.facts.get("created", ""))
            latest[label] = max(made, latest.get(label, ""))

    def is_replaced(run: StoredRun) -> bool:
        if run.done or run.damaged:
            return False
        made = str(run.facts.get("created", ""))
        failed = any(run.folder.fold(n).failure() for n in range(int(run.facts["n_folds"])))
        return failed and made < latest.get(str(run.facts["label"]), "")

    return [run for run in runs if not is_replaced(run)]
