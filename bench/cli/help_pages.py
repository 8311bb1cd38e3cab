"""Looks of the help: groups of commands and options, colours, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from bench.cli.terminal import terminal_width

WIDEST = 110
"""Characters a line of the help at most: longer lines are hard to read."""

WHERE, OUTPUT = "Where and how jobs run", "Results and output"
VARIANTS, SEARCH = "Several runs per method", "Search of settings"
"""Panels of options of the commands that have many."""

_MANY = 17
"""Options from which a command shows them in panels."""

COMMANDS = {
    "Methods and data": ("list", "data", "encoders", "features", "check", "audit", "ceiling"),
    "Runs": ("run", "tune", "study", "import-weights", "runs", "verify"),
    "Tables and figures": ("tables", "report", "genes", "figures", "cite"),
    "Predictions": ("predict", "export", "push", "pull"),
    "Exchange of results": ("import", "submission", "site"),
    "Tracking and machine": ("sync", "ui", "doctor"),
}
"""Commands by panel, in the order of the help; ``execute`` is hidden."""

_STYLES = {
    # Bold and magenta can be read on white and on black; yellow, cyan and dim text cannot.
    "STYLE_OPTION": "bold",
    "STYLE_SWITCH": "bold",
    "STYLE_NEGATIVE_OPTION": "bold",
    "STYLE_NEGATIVE_SWITCH": "bold",
    "STYLE_TYPES": "magenta",
    "STYLE_TYPES_SEPARATOR": "magenta",
    "STYLE_USAGE": "bold",
    "STYLE_HELPTEXT": "",
    "STYLE_OPTION_DEFAULT": "",
    "STYLE_OPTION_ENVVAR": "",
    "STYLE_REQUIRED_SHORT": "bold",
    "STYLE_REQUIRED_LONG": "bold",
    "STYLE_COMMANDS_TABLE_FIRST_COLUMN": "bold",
    # The title of a panel has the style of its border.
    "STYLE_OPTIONS_PANEL_BORDER": "",
    "STYLE_COMMANDS_PANEL_BORDER": "",
}


def _set_looks() -> None:
    """Set colours and width, which typer keeps in a module that is slow to import."""
    from typer import rich_utils

    for name, style in _STYLES.items():
        setattr(rich_utils, name, style)
    rich_utils.MAX_WIDTH = min(terminal_width(), WIDEST)


def examples(*commands: str) -> str:
    """Text below the options of a command: calls to copy, one a line.

    Square brackets are escaped, for rich takes them as markup.
    """
    lines = [command.replace("[", r"\[") for command in commands]
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


class HelpCommand(TyperCommand):
    """A command whose options stand in panels where they are many."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(name, params=params, **kwargs)
        # A line break of a docstring is none of the help.
        paragraphs = (self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                # Its name says what it is; "<str>" beside it adds nothing.
                parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
            elif parameter.metavar is None:
                parameter.metavar = _metavar(parameter)
            if len(self.params) < _MANY and hasattr(parameter, "rich_help_panel"):
                parameter.rich_help_panel = None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Write required arguments without braces, as manual pages do."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _set_looks()
        super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """Give the option --help, which shows no type either."""
        return _untyped(super().get_help_option(ctx))


class HelpGroup(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _set_looks()
        super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """Give the option --help, which shows no type either."""
        return _untyped(super().get_help_option(ctx))


class ProgramGroup(HelpGroup):
    """The program: its commands stand in panels, in the order of :data:`COMMANDS`."""

    def __init__(self, *, commands: dict[str, Any] | Sequence[Any] | None = None, **kwargs: Any):
        super().__init__(commands=commands, **kwargs)
        ordered: dict[str, Any] = {}
        for panel, names in COMMANDS.items():
            for name in names:
                if name in self.commands:  # a test may import a part of the commands
                    ordered[name] = self.commands[name]
                    ordered[name].rich_help_panel = panel
        self.commands = {**ordered, **self.commands}
        for parameter in self.params:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""


def _metavar(parameter: Any) -> str | None:
    """Choices of a parameter, without the brackets of a type; a flag takes no value."""
    if getattr(parameter, "is_flag", False):
        return ""
    described = parameter.type_descriptor
    return (
        "|".join(str(choice.value) for choice in described.choices) if described.is_choice else None
    )


def _untyped(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option


class HelpTyper(typer.Typer):
    """A group whose commands have the looks of this module."""

    def command(self, name: str | None = None, *, cls: Any = None, **kwargs: Any) -> Any:
        """Declare a command, as typer does."""
        return super().command(name, cls=cls or HelpCommand, **kwargs)
