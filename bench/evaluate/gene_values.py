"""Values of the panel genes, and the means that scores are made of."""

from __future__ import annotations

import numpy as np

from bench.evaluate.metrics import nanmean


class GeneValues:
    """Values of each panel gene as attributes, and their means.

    Attributes
    ----------
    heg
        (genes,) bool mask of the highly expressed genes.
    """

    heg: np.ndarray

    def value(self, name: str) -> float:
        """A value that belongs to no single gene."""
        return float(getattr(self, name))

    def panel_mean(self, column: str) -> float:
        """Mean over the panel genes with a defined value; NaN where there is none."""
        return nanmean(getattr(self, column))

    def heg_mean(self, column: str) -> float:
        """Mean over the highly expressed genes with a defined value; NaN where there is none."""
        return nanmean(getattr(self, column)[self.heg])

    def undefined(self, column: str) -> float:
        """Number of panel genes without a defined value."""
        return float(np.isnan(getattr(self, column)).sum())

    def undefined_heg(self, column: str) -> float:
        """Number of highly expressed genes without a defined value."""
        return float(np.isnan(getattr(self, column)[self.heg]).sum())
