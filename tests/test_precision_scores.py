"""Scores of the fast path against those of float32."""

import numpy as np
import pytest

import bench
from bench.devices import choose_precision, has_bf16

SEEDS = range(4)


def test_auto_takes_what_the_device_computes_in():
    expected = "bf16" if has_bf16("cpu") else "float32"
    assert choose_precision("auto", "cpu") == expected
    assert choose_precision("float32", "cpu") == "float32"
    assert choose_precision("bf16", "cpu") == "bf16"


def test_another_precision_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(bench.errors.UnknownNameError, match="bf16"):
        bench.run("mean", "demo", precision="bf61", results=tmp_path / "results", tracking="none")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mclstexp", "stnet"])
def test_scores_agree_within_the_spread_over_seeds(tmp_path, method):
    def scores(precision):
        tables = [
            bench.run(
                method,
                "demo",
                preset="quick",
                folds=[0],
                seed=seed,
                precision=precision,
                results=tmp_path / precision,
                tracking="none",
                oracles=False,
            )
            for seed in SEEDS
        ]
        return np.array([table.set_index("method").loc[method, "pcc_acg"] for table in tables])

    full, fast = scores("float32"), scores("bf16")
    assert not np.array_equal(full, fast)  # else nothing has been compared
    spread = full.max() - full.min()
    assert abs(fast.mean() - full.mean()) <= spread
    assert full.mean() > 0.3
