"""Rules of a comparison: split, gene panel, normalisation, and named protocols."""
