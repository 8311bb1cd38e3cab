"""Reference of the commands, from the declarations that ``--help`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.cli import program


def visible_commands() -> Iterator[tuple[str, Any, Any]]:
    """(full name, command, context) of the program, its groups and commands, in the help's order.

    Commands that the help hides are left out.
    """
    waiting: list[tuple[str, Any, Any]] = [("bench", program(), None)]
    while waiting:
        name, command, parent = waiting.pop(0)
        context = command.make_context(name.split()[-1], [], parent=parent, resilient_parsing=True)
        yield name, command, context
        waiting = [
            (f"{name} {child}", found, context)
            for child, found in getattr(command, "commands", {}).items()
            if not found.hidden
        ] + waiting


def page() -> str:
    """Markdown: a section a command, with its usage and a table of its arguments and options."""
    return "\n".join(_section(*found) for found in visible_commands())


def _section(name: str, command: Any, context: Any) -> str:
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", command.help or "", "", f"```text\n{usage}\n```", ""]
    children = [
        (child, found)
        for child, found in getattr(command, "commands", {}).items()
        if not found.hidden
    ]
    if children:
        rows = [(f"[`{name} {c}`](#{_anchor(f'{name} {c}')})", _first(f.help)) for c, f in children]
        lines += _table(("command", "purpose"), rows)
    records = [p.get_help_record(context) for p in command.params if not _is_help(p)]
    shown = [(_code(record[0]), _plain(record[1])) for record in records if record]
    if shown:
        lines += _table(("argument or option", "meaning"), shown)
    return "\n".join(lines)


def _is_help(parameter: Any) -> bool:
    return "--help" in parameter.opts


def _anchor(title: str) -> str:
    return title.replace(" ", "-")


def _first(text: str | None) -> str:
    return _plain((text or "").strip().split("\n\n")[0])


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("[", "\\[")


def _code(text: str) -> str:
    return "`" + " ".join(text.split()).replace("|", "\\|") + "`"


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
