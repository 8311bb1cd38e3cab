"""How a check ends other than well."""

from __future__ import annotations


class ContractError(Exception):
    """A promise that a method breaks; the message says in one line what was seen."""


class NotApplicableError(Exception):
    """There is nothing to check, or it cannot be seen; the message says in one line why."""
