"""Datasets: one YAML card each, and the readers of the file layouts."""
