"""Exceptions with which a check ends."""

from __future__ import annotations


class ContractError(Exception):
    """A method breaks the contract; the message describes the observation in one line."""


class NotApplicableError(Exception):
    """A check does not apply; the message gives the reason in one line."""
