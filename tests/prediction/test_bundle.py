"""Bundles of models: the same predictions, and whatever else a file may hold is refused."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bench
from bench.prediction.bundle import CONTENT
from tests.cli.tiny_dataset import assert_refused, call


@pytest.fixture(scope="module")
def exported(predicted, tmp_path_factory):
    """A bundle of a method on frozen features."""
    assert not predicted.run(["mlp"]).failures
    path = tmp_path_factory.mktemp("bundle") / "mlp.spotbench"
    answer = call("export", *predicted.model, "--method", "mlp", "--out", path)
    assert answer.status == 0, answer.stderr
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return path


def test_a_bundle_predicts_what_the_run_predicts(predicted, exported, tmp_path, monkeypatch):
    spots = predicted.spots("A1", tmp_path / "spots.csv")
    given = {"spots": spots, "um_per_px": predicted.scale("A1"), "device": "cpu"}
    run = bench.predict(
        predicted.image("A1"), str(predicted.dataset.card), "mlp",
        data_root=predicted.dataset.root, results=predicted.results, **given,
    )  # fmt: skip
    # On a machine that has neither results nor data.
    monkeypatch.chdir(tmp_path)
    bundle = bench.predict(predicted.image("A1"), bundle=exported, **given)
    np.testing.assert_array_equal(bundle.X, run.X)
    np.testing.assert_array_equal(bundle.layers["fold_sd"], run.layers["fold_sd"])
    assert bundle.var.equals(run.var)
    np.testing.assert_array_equal(bundle.obs["ood_score"], run.obs["ood_score"])
    assert np.isfinite(bundle.obs["ood_score"]).all()
    assert bundle.uns["spotbench"]["notes"] == run.uns["spotbench"]["notes"]
    one = bench.predict(predicted.image("A1"), bundle=exported, fold=1, **given)
    assert one.uns["spotbench"]["fits"] == "fold 1"


def test_a_bundle_holds_scores_and_models_and_nothing_that_was_measured(exported):
    found = members(exported)
    content = json.loads(found[CONTENT])
    assert set(content["files"]) == set(found) - {CONTENT}
    assert content["encoder"]["name"] == "test_resnet"
    assert (content["licence"], content["label"]) == ("MIT", "mlp")
    endings = {Path(name).suffix for name in found}
    assert endings == {".json", ".yaml", ".parquet", ".npz", ".safetensors"}
    assert not [name for name in found if "predictions" in name]
    text = b"".join(value for name, value in found.items() if name.endswith((".json", ".yaml")))
    assert str(exported.parent).encode() not in text


def edited(exported, tmp_path, **changes):
    found = members(exported)
    content = {**json.loads(found[CONTENT]), **changes}
    return written(tmp_path / "edited.spotbench", {**found, CONTENT: json.dumps(content).encode()})


def changed_byte(exported, tmp_path):
    found = members(exported)
    name = next(name for name in found if name.endswith(".safetensors"))
    changed = bytes([found[name][-1] ^ 1])
    return written(tmp_path / "b.spotbench", {**found, name: found[name][:-1] + changed})


def outside(exported, tmp_path):
    files = json.loads(members(exported)[CONTENT])["files"]
    files["../../outside.txt"] = next(iter(files.values()))
    return edited(exported, tmp_path, files=files)


def without_a_member(exported, tmp_path):
    found = members(exported)
    del found["fits/0/space.npz"]
    return written(tmp_path / "m.spotbench", found)


def with_more(exported, tmp_path, name, times=1):
    """The bundle with a further member, in the folder of a bundle that is not named in errors."""
    path = tmp_path / "more.spotbench"
    path.write_bytes(exported.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        for _ in range(times):
            archive.writestr(name, b"print('was run')")
    return path


def changed_member(exported, tmp_path, name, change):
    """The bundle with a changed member whose hash is that of its new content."""
    found = members(exported)
    content = json.loads(found[CONTENT])
    text = change(found[name])
    digest = hashlib.sha256(text).hexdigest()
    content["files"][name] = {"hash": f"sha256:{digest}", "size": len(text)}
    return written(
        tmp_path / "changed.spotbench",
        {**found, CONTENT: json.dumps(content).encode(), name: text},
    )


def record_without(name):
    def change(text):
        facts = json.loads(text)
        del facts[name]
        return json.dumps(facts).encode()

    return change


def scores_without(column):
    def change(content):
        target = io.BytesIO()
        pd.read_parquet(io.BytesIO(content)).drop(columns=column).to_parquet(target)
        return target.getvalue()

    return change


def without_field(exported, tmp_path, name):
    found = members(exported)
    content = {key: of for key, of in json.loads(found[CONTENT]).items() if key != name}
    return written(tmp_path / "less.spotbench", {**found, CONTENT: json.dumps(content).encode()})


def with_fit(exported, tmp_path, **changes):
    first, *others = json.loads(members(exported)[CONTENT])["fits"]
    return edited(exported, tmp_path, fits=[{**first, **changes}, *others])


def cut_off(exported, tmp_path):
    path = tmp_path / "cut.spotbench"
    path.write_bytes(exported.read_bytes()[:-5000])
    return path


def prefixed(exported, tmp_path):
    path = tmp_path / "prefixed.spotbench"
    path.write_bytes(b"x" * 100 + exported.read_bytes())
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (changed_byte, ["network.safetensors", "damaged or was changed"]),
        (outside, ["../../outside.txt"]),
        (without_a_member, ["fits/0/space.npz", "damaged or was changed"]),
        (cut_off, ["is no model bundle"]),
        (lambda e, t: t / "absent.spotbench", ["no such bundle"]),
        (lambda e, t: written(t / "x.spotbench", {"a": b"b"}), ["is no model bundle"]),
        (lambda e, t: edited(e, t, format=2, spotbench="9.9"), ["format 2", "9.9"]),
        (lambda e, t: edited(e, t, method="./evil.py"), ["which is a file"]),
        (lambda e, t: edited(e, t, method="nosuch"), ["edited.spotbench: unknown method 'nosuch'"]),
        (lambda e, t: edited(e, t, surprise=1), ["surprise"]),
        (lambda e, t: edited(e, t, fits=[]), ["fits"]),
        (lambda e, t: edited(e, t, images={"A1": "rot13:00"}), ["images", "A1"]),
        (
            lambda e, t: edited(e, t, done=[]),
            ["edited.spotbench: bundle.json: done: ", "at least 1 item"],
        ),
        (lambda e, t: edited(e, t, done=[0, 0]), ["done", "'0' occurs more than once"]),
        (lambda e, t: edited(e, t, done=[0, 77]), ["'fold-77/genes.parquet' is not among them"]),
        (lambda e, t: edited(e, t, scales=[-1.0]), ["scales", "greater than 0"]),
        (lambda e, t: edited(e, t, label=""), ["label", "at least 1 character"]),
        (lambda e, t: edited(e, t, fits=["a"]), ["fits.0: Input should be a mapping of fields"]),
        (lambda e, t: with_fit(e, t, name="fold 1"), ["fits: 'fold 1' occurs more than once"]),
        (lambda e, t: with_fit(e, t, panel=["a", "a"]), ["panel", "'a' occurs more than once"]),
        (lambda e, t: without_field(e, t, "format"), ["bundle.json: format: Field required"]),
        (
            lambda e, t: written(t / "x.spotbench", {CONTENT: b"[]"}),
            ["json: Input should be a map"],
        ),
        (
            lambda e, t: changed_member(e, t, "run.json", record_without("rules")),
            ["changed.spotbench: run.json: rules: Field required"],
        ),
        (
            lambda e, t: changed_member(e, t, "fold-0/genes.parquet", scores_without("gene")),
            ["changed.spotbench", "the scores have no column 'gene'"],
        ),
        (
            lambda e, t: changed_member(e, t, "card.yaml", lambda text: b"name: 3"),
            ["changed.spotbench: card.yaml: "],
        ),
        *(
            (
                lambda e, t, name=name: with_more(e, t, name),
                [f"more.spotbench: holds a member '{name}'"],
            )
            for name in ("../evil", "/abs", "evil.py", "./run.json")
        ),
        (
            lambda e, t: with_more(e, t, CONTENT),
            ["more.spotbench: holds several members 'bundle.json'"],
        ),
        (lambda e, t: with_more(e, t, "run.json"), ["holds 2 members 'run.json'"]),
        (prefixed, ["prefixed.spotbench: damaged archive"]),
    ],
)
def test_a_bundle_that_is_not_as_it_was_written_is_refused(
    predicted, exported, tmp_path, make, words
):
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    predicted.spots("A1", tmp_path / "spots.csv")
    bundle, out = make(exported, tmp_path), tmp_path / "out.h5ad"
    answer = call(
        "predict", bundle, predicted.image("A1"), "--spots", tmp_path / "spots.csv",
        "--um-per-px", predicted.scale("A1"), "--device", "cpu", "--out", out,
    )  # fmt: skip
    told = assert_refused(answer, str(bundle), *words)
    assert "card:" not in told
    assert "Bundle" not in told
    assert "/spotbench-bundle-" not in told
    assert not out.exists()
    assert not (tmp_path.parent / "outside.txt").exists()


def test_what_is_no_bundle_or_model_is_not_asked_for(predicted, exported, tmp_path):
    image, out = predicted.image("A1"), tmp_path / "out.csv"
    assert_refused(call("predict", image, "--out", out), "name a model")
    assert_refused(
        call("predict", exported, image, *predicted.model, "--method", "mlp", "--out", out),
        "choose another one",
    )
    assert_refused(call("predict", exported, image, image, "--out", out), "not 3 files")
    model = (*predicted.model, "--method", "mlp")
    assert_refused(call("export", *model, "--out", tmp_path / "model.zip"), ".spotbench")
