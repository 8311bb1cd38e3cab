"""Progress of a prediction."""

from __future__ import annotations


class PredictionWatcher:
    """Told how a prediction goes on; this one does nothing."""

    def say(self, text: str) -> None:
        """One line on what is being done."""

    def predicted(self, done: int, total: int) -> None:
        """Spots that are predicted, and all of them; spots of several fits count as parts."""
