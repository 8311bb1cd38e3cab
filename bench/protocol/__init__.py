"""Rules of a comparison: split, gene panel, normalisation, and what they are called together."""
