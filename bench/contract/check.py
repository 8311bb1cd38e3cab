"""Checks of the contract, and their results."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.contract.outcome import ContractError, NotApplicableError
from bench.contract.subject import Subject
from bench.files import one_line

Check = Callable[[Subject], str | None]
"""A check returns, with a remark or none, where the promise of its docstring's first line is kept.

It raises :class:`ContractError` where the promise is broken, and :class:`NotApplicableError` where
there is nothing to check or it cannot be seen. Whatever else it raises is the method's own failure.
"""


@dataclass(frozen=True)
class Result:
    """Result of a check.

    Attributes
    ----------
    name, title
        Name of the check, and its promise in one sentence.
    outcome
        ``passed``, ``failed`` or ``not applicable``.
    reason
        One line: why it failed or does not apply, or a remark.
    seconds
        Duration of the check.
    traceback
        Traceback of the method's own exception, empty without one.
    """

    name: str
    title: str
    outcome: Literal["passed", "failed", "not applicable"]
    reason: str = ""
    seconds: float = 0.0
    traceback: str = ""


def name_of(check: Check) -> str:
    """Name of a check."""
    return check.__name__


def title_of(check: Check) -> str:
    """Promise that a check is about: the first line of its docstring."""
    return (inspect.getdoc(check) or "").split("\n")[0].rstrip(".")


def run_check(check: Check, subject: Subject) -> Result:
    """Run one check; errors of the method become its result."""
    start = time.perf_counter()
    outcome: Literal["passed", "failed", "not applicable"] = "failed"
    trace = ""
    try:
        reason = check(subject) or ""
        outcome = "passed"
    except NotApplicableError as error:
        outcome, reason = "not applicable", one_line(error)
    except ContractError as error:
        reason = one_line(error, 400)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a method may fail in any way; that is the result
        reason = f"{type(error).__name__}: {one_line(error)}"
        trace = traceback.format_exc()
    seconds = round(time.perf_counter() - start, 3)
    return Result(name_of(check), title_of(check), outcome, reason, seconds, trace)
