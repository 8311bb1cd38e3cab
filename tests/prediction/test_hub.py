"""Bundles on Hugging Face: a faked hub that keeps, serves, refuses or fails."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bench.prediction import hub_bundles
from bench.prediction.bundle import CARD, CONTENT, check_bundle, open_bundle
from bench.prediction.gene_reliability import gene_reliability
from tests.cli.tiny_dataset import assert_refused, call

NAME = "lab/her2st-ridge"


@pytest.fixture(scope="module")
def exported(ridge, tmp_path_factory):
    """A bundle of ridge."""
    path = tmp_path_factory.mktemp("bundle") / "ridge.spotbench"
    answer = call("export", *ridge.model, "--method", "ridge", "--out", path)
    assert answer.status == 0, answer.stderr
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub in a folder: repositories, and the error that it answers with."""
    state = SimpleNamespace(root=tmp_path / "hub", error=None, sizes={}, private=[], commits=[])
    state.root.mkdir()

    def asked():
        if state.error is not None:
            raise state.error

    def create_repo(self, repo_id, *, private, exist_ok):
        asked()
        assert exist_ok
        state.private.append(private)
        (state.root / repo_id).mkdir(parents=True, exist_ok=True)

    def create_commit(self, repo_id, operations, *, commit_message):
        asked()
        state.commits.append(commit_message)
        for one in operations:
            with one.as_file() as stream:
                (state.root / repo_id / one.path_in_repo).write_bytes(stream.read())
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    def model_info(self, repo_id, *, revision, files_metadata):
        asked()
        assert files_metadata
        files = sorted((state.root / repo_id).iterdir())
        siblings = [
            SimpleNamespace(
                rfilename=path.name, size=state.sizes.get(path.name, path.stat().st_size)
            )
            for path in files
        ]
        return SimpleNamespace(sha=f"commit of {revision}", siblings=siblings)

    def hf_hub_download(self, repo_id, name, *, revision, local_dir):
        assert revision.startswith("commit of ")
        source = state.root / repo_id / name
        return str(source if local_dir is None else shutil.copy(source, local_dir))

    for function in (create_repo, create_commit, model_info, hf_hub_download):
        monkeypatch.setattr(huggingface_hub.HfApi, function.__name__, function)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return state


def refusal(kind, status):
    return kind("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


def card_parts(text):
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_what_is_pushed_is_pulled_and_predicts_the_same(ridge, exported, hub, tmp_path):
    pushed = call("push", exported, NAME, "--private")
    assert (pushed.status, pushed.stdout.strip()) == (
        0,
        f"https://huggingface.co/{NAME}/commit/1",
    )
    assert (hub.private, hub.commits) == ([True], ["Upload ridge"])
    assert {path.name for path in (hub.root / NAME).iterdir()} == {"model.spotbench", "README.md"}
    pulled = call("pull", f"{NAME}@v1", "--out", tmp_path / "got.spotbench")
    assert pulled.status == 0, pulled.stderr
    assert (tmp_path / "got.spotbench").read_bytes() == exported.read_bytes()
    ridge.spots("A1", tmp_path / "spots.csv")
    for model, out in ((exported, "file.csv"), (f"hf://{NAME}", "hub.csv")):
        answer = call(
            "predict", model, ridge.image("A1"), "--spots", tmp_path / "spots.csv",
            "--um-per-px", ridge.scale("A1"), "--device", "cpu", "--out", tmp_path / out,
        )  # fmt: skip
        assert answer.status == 0, answer.stderr
    assert (tmp_path / "hub.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()


def test_the_card_tells_what_is_predicted_and_how_well(ridge, exported, hub, tmp_path):
    answer = call("push", exported, NAME, "--dry-run", tmp_path / "card")
    assert answer.status == 0, answer.stderr
    assert not list(hub.root.iterdir())
    path = tmp_path / "card" / "README.md"
    assert answer.stdout.strip() == str(path)
    header, body = card_parts(path.read_text())
    assert header["library_name"] == "spotbench"
    assert header["license"] == "mit"
    assert header["datasets"] == ["tiny"]
    assert {"spatial-transcriptomics", "ridge"} <= set(header["tags"])
    content = json.loads(zipfile.ZipFile(exported).read(CONTENT))
    for text in ("## Scores", "## Genes", "## Protocol", "## Data", "## Use", "## Limits"):
        assert text in body
    assert f"bench predict hf://{NAME}" in body
    assert "noise ceiling" in body
    assert content["key"][:12] in body
    rows = [line for line in body.splitlines() if line.startswith("| GENE")]
    assert len(rows) == 20
    with open_bundle(exported) as (model, _):
        best = gene_reliability(model.run, model.genes)["pcc"].sort_values(ascending=False)
    assert rows[0].startswith(f"| {best.index[0]} | {best.iloc[0]:.3f} |")


def edited(exported, path, card, **content):
    """A bundle whose card and content say something else, with hashes that fit."""
    with zipfile.ZipFile(exported) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = {**yaml.safe_load(members[CARD]), **card}
    members[CARD] = yaml.safe_dump(changed, allow_unicode=True).encode()
    content = {**json.loads(members[CONTENT]), **content}
    content["files"][CARD] = {
        "hash": f"sha256:{hashlib.sha256(members[CARD]).hexdigest()}",
        "size": len(members[CARD]),
    }
    members[CONTENT] = json.dumps(content).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_hostile_names_are_text_in_the_card(exported, tmp_path):
    hostile = "<script>x</script>\n---\n# Free [money](http://evil) | `code`"
    raw = f"{hostile} \x1b[31m"
    bundle = edited(
        exported, tmp_path / "h.spotbench", {"title": hostile}, licence=raw, citation=raw
    )
    check_bundle(bundle)
    assert call("push", bundle, NAME, "--dry-run", tmp_path).status == 0
    text = (tmp_path / "README.md").read_text()
    header, body = card_parts(text)
    assert header["license"] == "other"
    assert set(header["license_name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._")
    assert "<script" not in body
    assert "[money](" not in body
    assert "\x1b" not in text
    assert "\n# Free" not in body
    assert body.count("\n## ") == 6


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refusal(GatedRepoError, 403), ["access is asked for at", NAME, "HF_TOKEN"]),
        (refusal(RepositoryNotFoundError, 401), ["does not exist, or is private"]),
        (refusal(RevisionNotFoundError, 404), ["has no revision main"]),
        (refusal(HfHubHTTPError, 500), [NAME, "no"]),
        (ConnectionError("no route\nto host"), ["cannot be reached (no route to host)"]),
    ],
)
def test_refusals_of_the_hub_are_one_line(ridge, hub, tmp_path, error, words):
    hub.error = error
    out = tmp_path / "out.spotbench"
    assert_refused(call("pull", NAME, "--out", out), *words)
    ridge.spots("A1", tmp_path / "spots.csv")
    options = ("--spots", tmp_path / "spots.csv", "--out", tmp_path / "out.csv")
    assert_refused(call("predict", f"hf://{NAME}", ridge.image("A1"), *options), *words)
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "spots.csv"}


def test_a_push_that_is_refused_is_one_line(exported, hub, tmp_path, monkeypatch):
    hub.error = refusal(HfHubHTTPError, 403)
    assert_refused(call("push", exported, NAME), "HF_TOKEN may not write to")
    hub.error = None
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert_refused(call("push", exported, NAME), "no access token", "HF_TOKEN")
    other = tmp_path / "other.spotbench"
    other.write_bytes(exported.read_bytes()[:-3000])
    assert_refused(call("push", other, NAME), "no model bundle")
    assert_refused(call("push", tmp_path / "absent.spotbench", NAME), "no such bundle")
    for name in ("ridge", "a/b/c", "../x", "a/..", "own er/x", f"{NAME}@v1", "a/x.git", "a/b;c"):
        assert_refused(call("push", exported, name), name.partition("@")[0])
    assert not list(hub.root.iterdir())


def changed_byte(path, exported):
    content = bytearray(exported.read_bytes())
    with zipfile.ZipFile(exported) as archive:
        info = archive.infolist()[-1]
    content[info.header_offset + 200] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda folder, exported: (folder / "x.txt").write_text("x"),
            ["holds no file *.spotbench"],
        ),
        (
            lambda folder, exported: (folder / "model.spotbench").write_text("no bundle"),
            [f"huggingface.co/{NAME}: model.spotbench", "is no model bundle"],
        ),
        (
            lambda folder, exported: changed_byte(folder / "model.spotbench", exported),
            [f"huggingface.co/{NAME}: model.spotbench", "damaged"],
        ),
        (
            lambda folder, exported: [
                shutil.copy(exported, folder / f"{name}.spotbench") for name in "ab"
            ],
            ["2 bundles and no model.spotbench"],
        ),
    ],
)
def test_a_repository_without_a_whole_bundle_is_refused(exported, hub, tmp_path, make, words):
    (hub.root / NAME).mkdir(parents=True)
    make(hub.root / NAME, exported)
    out = tmp_path / "out.spotbench"
    out.write_text("from before")
    assert_refused(call("pull", NAME, "--out", out), *words)
    assert out.read_text() == "from before"
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "out.spotbench"}


def test_sizes_are_checked_before_and_after(exported, hub, tmp_path, monkeypatch):
    (hub.root / NAME).mkdir(parents=True)
    shutil.copy(exported, hub.root / NAME / "model.spotbench")
    out = tmp_path / "out.spotbench"
    hub.sizes["model.spotbench"] = 20 << 30
    assert_refused(call("pull", NAME, "--out", out), "has 21.5 GB; at most 10.7 GB are fetched")
    hub.sizes["model.spotbench"] = 7
    assert_refused(call("pull", NAME, "--out", out), "bytes, not 7")
    assert hub_bundles.LARGEST == 10 << 30
    assert not out.exists()
    assert_refused(call("pull", NAME, "--out", tmp_path / "out.zip"), "ends in .spotbench")
    assert_refused(call("pull", "nonsense", "--out", out), "names no repository")
