"""Datasets: the card that describes one, the section it is made of, the store of its patches."""
