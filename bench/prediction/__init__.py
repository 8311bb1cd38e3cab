"""Predictions of stored models on images that have no expression."""

MIN_PCC = 0.1
"""PCC on unseen sections from which a gene counts as predictable: below it less than 1 % of the
variance of its expression is explained."""
