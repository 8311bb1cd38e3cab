"""Oracles by name, for listings that must not import an array library."""

ORACLE_SUMMARIES = {
    "depth": "Oracle: the log of the spot's own total count; tells what the score rewards.",
}
