"""Scores: pure functions on arrays. Nothing here knows a dataset, a method or a file."""
