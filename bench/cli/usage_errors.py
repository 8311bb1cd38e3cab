"""Messages for calls that the parser refuses: what is wrong, where, what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bench.errors import near_names
from bench.files import one_line

_COMMAND = re.compile(r"No such command '(?P<name>.*?)'\.", re.DOTALL)
_EXTRA = re.compile(r"Got unexpected extra argument\(?s?\)? \((?P<words>.*)\)", re.DOTALL)
_VALUE = re.compile(
    r"Option '(?P<name>.*?)' (?P<fault>requires an argument|does not take a value)\.", re.DOTALL
)
_FAULTS = {
    "requires an argument": "needs a value",
    "does not take a value": "takes no value",
}
_SHOWN = 60
"""Characters of a typed value that a message repeats."""


def usage_message(error: Any, arguments: Sequence[str]) -> str:
    """One line for an error of typer; empty where typer has printed a help.

    Parameters
    ----------
    error
        The error, a ``TyperException``.
    arguments
        Words of the call, among which the refused value is looked up.
    """
    message = str(error.format_message())
    context = getattr(error, "ctx", None)
    if found := _VALUE.match(message):
        return f"option {found['name']} {_FAULTS[found['fault']]}"
    if not message or context is None:
        return message
    path = context.command_path
    if found := _COMMAND.match(message):
        return _unknown_command(one_line(found["name"], _SHOWN), path, context)
    if found := _EXTRA.match(message):
        return f"'{path}' does not take '{one_line(found['words'], _SHOWN)}'; see '{path} --help'"
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        return _unknown_option(one_line(option, _SHOWN), path, context)
    parameter = getattr(error, "param", None)
    if parameter is None:
        return message
    if message.startswith("Missing "):
        kind = "option " if parameter.param_type_name == "option" else "argument "
        return f"{kind}{_name(parameter)} of '{path}' is missing; see '{path} --help'"
    return _wrong_value(parameter, error.message, arguments)


def _unknown_command(name: str, path: str, context: Any) -> str:
    known = [name for name, child in context.command.commands.items() if not child.hidden]
    near = near_names(name, known)[:2]
    offer = f"did you mean {' or '.join(near)}?" if near else f"see '{path} --help'"
    return f"unknown command '{path} {name}'; {offer}"


def _unknown_option(option: str, path: str, context: Any) -> str:
    known = [name for p in context.command.params for name in p.opts if name.startswith("--")]
    near = near_names(option, known)[:2] if option.startswith("--") else []
    offer = f"did you mean {' or '.join(near)}?" if near else f"see '{path} --help'"
    return f"unknown option {option} of '{path}'; {offer}"


def _wrong_value(parameter: Any, message: str, arguments: Sequence[str]) -> str:
    """Message on a value of the wrong type, or that is none of the choices."""
    name, value = _name(parameter), _typed(parameter, arguments)
    described = parameter.type_descriptor
    if described.is_choice and value is not None:
        choices = ", ".join(str(choice.value) for choice in described.choices)
        return f"{name} '{one_line(value, _SHOWN)}': must be one of {choices}"
    reason = message.removeprefix("Value error, ").removeprefix("Input should be ")
    must = "" if reason == message else "must be "
    # The rest repeats it in words of a parser.
    reason = reason.partition(", unable to parse")[0].replace("valid integer", "whole number")
    reason = reason.replace("valid number", "number")
    shown = "" if value is None else f" '{one_line(value, _SHOWN)}'"
    return f"{name}{shown}: {must}{reason}"


def _name(parameter: Any) -> str:
    """Long name of an option, name of an argument."""
    if parameter.param_type_name != "option":
        return str(parameter.display_name_raw)
    return next((name for name in parameter.opts if name.startswith("--")), str(parameter.name))


def _typed(parameter: Any, arguments: Sequence[str]) -> str | None:
    """Value that was typed for a parameter, the last one; None where it is not known."""
    if parameter.param_type_name != "option":
        # A wrong word is none of the choices, of the words that are no options.
        words = [word for word in arguments if not word.startswith("-")]
        return words[-1] if words else None
    value = None
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in parameter.opts:
            value = following
        elif any(word.startswith(f"{name}=") for name in parameter.opts if name.startswith("--")):
            value = word.partition("=")[2]
    return value
