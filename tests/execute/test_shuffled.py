"""The permuted-image control permutes all that a method reads of images, or it is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.api import BenchError, in_image_order
from bench.worker.shuffling import check_shuffled, shuffled_slides

LOOKUP = '''
"""Least squares on features that were computed beforehand, by section and spot."""

import json
from pathlib import Path

import numpy as np

from bench.api import Method, MethodConfig, atomic_write, in_image_order


class LookupConfig(MethodConfig):
    features: Path
    in_order: bool


class Lookup(Method):
    name = "lookup"
    Config = LookupConfig

    def look_up(self, slide):
        table = json.loads(self.config.features.read_text())[slide.name]
        found = np.array([[1, table[f"{x}x{y}"]] for x, y in slide.array_xy])
        return in_image_order(slide, found) if self.config.in_order else found

    def fit(self, data, context):
        features = np.concatenate([self.look_up(section) for section in data.sections])
        targets = np.concatenate([section.target for section in data.sections])
        self.weights = np.linalg.lstsq(features, targets, rcond=None)[0]

    def predict(self, slides, context):
        return [(self.look_up(slide) @ self.weights).astype(np.float32) for slide in slides]

    def save(self, folder):
        with atomic_write(folder / "weights.npy") as temporary:
            np.save(temporary, self.weights)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.weights = np.load(folder / "weights.npy")
        return method
'''


@pytest.fixture
def run(bench, tiny, results, tmp_path):
    """Runs the method and its twin; its features are the brightness of a patch in the image."""
    from PIL import Image

    table = {}
    for path in tiny.root.glob("images/*.jpg"):
        pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
        rows = [line.split("\t") for line in tiny.spots(path.stem).read_text().splitlines()]
        column = {name: number for number, name in enumerate(rows[0])}
        table[path.stem] = {
            f"{row[column['x']]}x{row[column['y']]}": pixels[
                int(float(row[column["pixel_y"]])), int(float(row[column["pixel_x"]]))
            ]
            for row in rows[1:]
        }
    (tmp_path / "features.json").write_text(json.dumps(table))
    (tmp_path / "lookup.py").write_text(LOOKUP)

    def run_both(in_order):
        return bench(
            *("run", "--method", f"{tmp_path}/lookup.py,shuffled", *tiny.options, "--folds", "0"),
            *("--set", f"features={tmp_path}/features.json", "--set", f"in_order={in_order}"),
            *(*tiny.quick_protocol, "--results", results, "--tracking", "none", "--json"),
        )

    return run_both


def test_a_method_with_features_of_its_own_has_no_twin_that_sees_them_in_place(run):
    answer = run("false")
    assert answer.status == 1, answer
    content = json.loads(answer.stdout)
    (failure,) = content["failures"]
    assert failure["label"] == "shuffled:lookup"
    assert "were not permuted: lookup reads them neither" in failure["reason"]
    assert "\n" not in failure["reason"]
    scored = {row["method"] for row in content["rows"] if row["folds"]}
    assert scored == {"lookup"}


def test_features_put_in_order_are_permuted_with_the_images(run):
    answer = run("true")
    assert answer.status == 0, answer
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    assert rows["lookup"]["pcc_acg"] > rows["shuffled:lookup"]["pcc_acg"] + 0.1


def test_a_slide_of_the_control_has_its_patches_permuted_and_knows_who_looked(slide):
    (shuffled,) = shuffled_slides([slide], 3)
    assert shuffled.name == slide.name
    np.testing.assert_array_equal(shuffled.array_xy, slide.array_xy)
    assert not shuffled.asked
    with pytest.raises(BenchError, match=f"section {slide.name} were not permuted: mine"):
        check_shuffled([shuffled], "mine")
    wanted = slide.with_images_shuffled(3).patches(8, 4)
    np.testing.assert_array_equal(shuffled.patches(8, 4), wanted)
    check_shuffled([shuffled], "mine")


def test_values_in_image_order_follow_the_images(slide):
    values = slide.patches(8, 4).mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(in_image_order(slide, values), values)
    (shuffled,) = shuffled_slides([slide], 3)
    found = in_image_order(shuffled, values)
    np.testing.assert_array_equal(found, shuffled.patches(8, 4).mean(axis=(1, 2, 3)))
    assert not np.array_equal(found, values)
    with pytest.raises(ValueError, match="19 rows for 20 spots"):
        in_image_order(slide, values[1:])
