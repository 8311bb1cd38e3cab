"""Commands on stored runs: runs list, runs rm, runs label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.apps import runs_app
from bench.cli.options import (
    FAILED,
    JsonOption,
    ResultsOption,
    RunsDatasetOption,
    RunsMethodOption,
    StoredProtocolOption,
    names,
)
from bench.cli.terminal import (
    complain,
    confirm_removal,
    plural,
    print_rows,
    say,
    terminal_width,
)
from bench.errors import BenchError, StoreError
from bench.execute.request import Request
from bench.files import one_line

if TYPE_CHECKING:
    from bench.inventory import RunEntry

_StateOption = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="NAMES",
        help="States of runs, comma-separated: done, partial, failed, empty, damaged, 'in use'.",
        show_default="all",
    ),
]


@runs_app.command("list")
def list_command(
    dataset: RunsDatasetOption = None,
    protocol: StoredProtocolOption = None,
    method: RunsMethodOption = None,
    state: _StateOption = None,
    as_json: JsonOption = False,
    results: ResultsOption = Request.results,
) -> None:
    """List stored runs with finished folds, state, size and age."""
    from bench.inventory import chosen_runs

    entries = chosen_runs(
        _entries(results),
        methods=names(method),
        states=_states(state),
        dataset=dataset,
        protocol=protocol,
    )
    if as_json:
        facts = [{**vars(entry), "path": str(entry.path)} for entry in entries]
        typer.echo(json.dumps(facts, indent=2))
        return
    print_rows("", [_row(entry) for entry in entries], terminal_width())
    for entry in entries:
        if entry.reason:
            say(f"{entry.key[:8]} {entry.label}: {one_line(entry.reason)}")
    say(f"{plural(len(entries), 'run')}, {_size(sum(entry.size for entry in entries))}")


@runs_app.command("rm")
def remove_command(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY",
            help="First characters of the keys of runs, as 'bench runs list' prints them.",
            show_default=False,
        ),
    ] = None,
    dataset: RunsDatasetOption = None,
    protocol: StoredProtocolOption = None,
    method: RunsMethodOption = None,
    state: _StateOption = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Remove runs that have failed folds and no finished one."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    results: ResultsOption = Request.results,
) -> None:
    """Remove stored runs, chosen by key, method or state.

    Runs in MLflow are not removed.
    """
    from bench.inventory import chosen_runs, remove_run

    states = (*_states(state), *(("failed",) if failed else ()))
    if not (keys or method or states):
        raise BenchError("say which runs: a key, --method, --state or --failed")
    entries = chosen_runs(
        _entries(results),
        keys=keys or (),
        methods=names(method),
        states=states,
        dataset=dataset,
        protocol=protocol,
    )
    if not entries:
        say("no such run; nothing is removed")
        return
    print_rows("", [_row(entry) for entry in entries], terminal_width())
    told = f"{plural(len(entries), 'run')}, {_size(sum(entry.size for entry in entries))}"
    if not yes and not confirm_removal(told):
        return
    removed, freed = 0, 0
    for entry in entries:
        try:
            remove_run(results, entry)
        except StoreError as error:
            complain(str(error))
            continue
        removed, freed = removed + 1, freed + entry.size
    say(
        f"removed {plural(removed, 'run')} and freed {_size(freed)}; runs in MLflow are not removed"
    )
    if removed < len(entries):
        raise typer.Exit(FAILED)


@runs_app.command("label")
def label_command(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="First characters of the key of a run, as 'bench runs list' prints it.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="New name of the row.", show_default=False),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the name that was given.")] = False,
    results: ResultsOption = Request.results,
) -> None:
    """Name the row of a run in tables, figures and pages.

    Keys and stored results do not change.
    """
    from bench.inventory import name_run, run_of_key

    if clear == (name is not None):
        raise BenchError("write a name, or --clear")
    if name is not None and not name.strip():
        raise BenchError("the name is blank; --clear takes a name back")
    entries = _entries(results)
    entry = run_of_key(entries, key)
    name_run(entries, entry, name or "")
    shown = f"'{name}'" if name else f"'{entry.label}' again"
    say(f"{entry.dataset}, protocol {entry.protocol}: run {entry.key[:12]} is named {shown}")


def _entries(results: Path) -> list[RunEntry]:
    """All runs.

    Raises
    ------
    BenchError
        There are none.
    """
    from bench.inventory import list_runs

    entries = list_runs(results)
    if not entries:
        raise BenchError(f"{results}: no runs here; make some with 'bench run'")
    return entries


def _states(text: str | None) -> Sequence[str]:
    from bench.errors import UnknownNameError
    from bench.inventory import STATES

    states = names(text)
    for state in states:
        if state not in STATES:
            raise UnknownNameError("state of a run", state, STATES)
    return states


def _row(entry: RunEntry) -> dict[str, str]:
    named = f"{entry.given} ({entry.label})" if entry.given else entry.label
    return {
        "dataset": entry.dataset,
        "protocol": entry.protocol,
        "key": entry.key[:8],
        "folds": f"{entry.done}/{entry.folds} {entry.state}",
        "size": _size(entry.size),
        "age": _age(entry.created),
        "method": named,
        "preset": entry.preset or "–",
        "seed": "–" if entry.seed is None else str(entry.seed),
    }


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def _age(created: str) -> str:
    """Time since a run was made; a dash where that is not known."""
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        return "–"
    seconds = (datetime.now(UTC) - made.replace(tzinfo=made.tzinfo or UTC)).total_seconds()
    for limit, length, unit in ((3600, 60, "min"), (86400, 3600, "h"), (float("inf"), 86400, "d")):
        if seconds < limit:
            return f"{max(seconds, 0) / length:.0f} {unit}"
    return "–"
