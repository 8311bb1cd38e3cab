"""Tuning: for each test fold, a study on inner folds of its training patients."""
