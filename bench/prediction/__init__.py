"""Predictions of stored models on images that have no expression."""
