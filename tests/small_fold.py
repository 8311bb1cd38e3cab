"""Where the small fold used to be; it is part of the package."""

from bench.contract.small_fold import GENES, SPOTS, as_slide, small_fold

__all__ = ["GENES", "SPOTS", "as_slide", "small_fold"]
