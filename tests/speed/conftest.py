"""A fold of noise for the measurements of speed."""

import pytest

from bench.speed.fold import synthetic_fold


@pytest.fixture(scope="package")
def fold(tmp_path_factory):
    """Thirty training spots, a slide of five, seven genes, patches of 32 px; not to be changed."""
    return synthetic_fold(
        tmp_path_factory.mktemp("fold"), spots=30, test_spots=5, genes=7, patch_pixels=32
    )
