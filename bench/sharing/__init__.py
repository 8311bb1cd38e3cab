"""Results in one file: written, checked, read elsewhere; submissions; runs made again."""

DEFAULT_TOLERANCE = 1e-6
"""Largest difference of predictions and scores that counts as the same, on one kind of machine."""
