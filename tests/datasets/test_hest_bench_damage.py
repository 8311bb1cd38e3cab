"""Damaged files of stored patches: each is refused in one line, or read."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from bench.data.images.stored_patches import stored_patches
from bench.datasets import hest_bench
from bench.errors import DataError
from tests.datasets.hest_task import EDGE, write_task

CASES = 150


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("hest") / "T", ("A",))


def outside_of_images(path):
    """Places in the file that hold no pixel: names, types, coordinates, barcodes."""
    places = np.ones(path.stat().st_size, dtype=bool)
    with h5py.File(path) as file:
        pieces = []
        file["img"].id.chunk_iter(pieces.append)
    for piece in pieces:
        places[piece.byte_offset : piece.byte_offset + piece.size] = False
    return np.flatnonzero(places)


@pytest.mark.slow
def test_damage_is_refused_in_a_line_or_without_effect_on_the_form(task, tmp_path, own_cache):
    source, counts = task / "patches" / "A.h5", task / "adata" / "A.h5ad"
    content, places = source.read_bytes(), outside_of_images(source)
    generator = np.random.default_rng(0)
    read, refusals = 0, []
    for case in range(CASES):
        damaged = bytearray(content)
        if case % 10 == 0:
            damaged = damaged[: int(generator.integers(0, len(damaged)))]
        else:
            for place in generator.choice(places, int(generator.integers(1, 4))):
                damaged[place] = int(generator.integers(0, 256))
        path = tmp_path / "damaged.h5"
        path.write_bytes(damaged)
        try:
            adata = hest_bench.read({"counts": counts, "patches": path})
            rows = adata.obs["patch_row"].to_numpy()
            source_of = stored_patches(path, str(case), np.asarray(adata.obsm["spatial"]), rows)
            assert source_of.cut(EDGE).shape == (adata.n_obs, EDGE, EDGE, 3)
            read += 1
        except DataError as error:
            refusals.append(str(error))
    assert all("\n" not in line for line in refusals)
    assert all(str(path) in line or str(counts) in line for line in refusals)
    assert min(read, len(refusals)) > CASES // 10
