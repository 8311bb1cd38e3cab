"""Tuning: for each test fold a study on folds made of its training patients alone."""
