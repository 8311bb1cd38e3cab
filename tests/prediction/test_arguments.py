"""Arguments of ``bench.predict`` and their texts on the command line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bench
from bench.errors import BenchError
from bench.prediction.arguments import distance
from tests.cli.tiny_dataset import assert_refused, call


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"genes": []}, "names no gene"),
        ({"genes": ""}, "names no gene"),
        ({"genes": " , "}, "names no gene"),
        ({"genes": [3]}, "3 is no name of a gene"),
        ({"genes": 3}, "--genes 3: must be names of genes"),
        ({"um_per_px": "x"}, "um_per_px 'x': must be a number"),
        ({"um_per_px": True}, "um_per_px True: must be a number"),
        ({"image_scale": "1"}, "--image-scale '1': must be a number"),
        ({"min_pcc": "0.1"}, "--min-pcc '0.1': must be a number"),
        ({"fold": 1.5}, "fold 1.5: must be a whole number"),
        ({"spots": 5}, "spots of type int: must be the path of a file or a DataFrame"),
        ({"spots": None, "grid": "wide"}, "--grid wide: write a pitch such as 100um"),
        ({"spots": None, "grid": [1]}, "--grid .*: must be a number"),
        ({"spots": None, "grid": "nanum"}, "--grid nan: must be a finite number above 0"),
        ({"spots": None, "grid": 9, "mask": 5}, "mask 5: must be a path"),
        ({"image": 5}, "image 5: must be a path"),
        ({"image": ""}, "image '': is no path"),
        ({"bundle": 5}, "bundle 5: must be a path"),
        ({"protocol": 5}, "protocol of type int: must be a text"),
        ({"device": 5}, "device of type int: must be a text"),
        ({"results": 5}, "results 5: must be a path"),
        ({"data_root": 5}, "data_root 5: must be a path"),
    ],
)
def test_an_argument_of_another_type_is_named(tmp_path, given, words):
    given = {"image": "a.png", "bundle": tmp_path / "b.spotbench", "spots": "s.csv", **given}
    with pytest.raises(BenchError, match=words):
        bench.predict(given.pop("image"), **given)


def test_a_list_of_no_gene_is_refused_by_the_command():
    answer = call("predict", "b.spotbench", "a.png", "--genes", ",", "--out", "o.csv")
    assert_refused(answer, "--genes names no gene")


def test_arguments_are_written_as_the_options_are(ridge, tmp_path):
    given = {
        "dataset": str(ridge.dataset.card),
        "method": "ridge",
        "um_per_px": np.float32(ridge.scale("A1")),
        "results": ridge.results,
        "data_root": ridge.dataset.root,
        "device": "cpu",
        "fold": np.int64(0),
    }
    spots, table = tmp_path / "s.csv", ridge.spots("A1", tmp_path / "s.csv")
    as_text = bench.predict(ridge.image("A1"), spots=str(spots), genes="GENE3, GENE1", **given)
    as_values = bench.predict(ridge.image("A1"), spots=table, genes=["GENE3", "GENE1"], **given)
    assert list(as_text.var_names) == ["GENE3", "GENE1"]
    pd.testing.assert_frame_equal(as_text.to_df(), as_values.to_df())
    assert distance("--grid", "64um") == distance("--grid", " 64 ") == distance("--grid", 64) == 64
