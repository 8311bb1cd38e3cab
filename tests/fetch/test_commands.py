"""``bench data get`` and ``verify``."""

import json
import time

import pytest

from bench.data.lock import LOCK
from tests.cli import tiny_dataset
from tests.fetch import broken_server as broken
from tests.fetch.downloads import left


@pytest.fixture
def served(tmp_path, server):
    """The tiny dataset with a card that says it lies on the server."""
    tiny = tiny_dataset.write_tiny_dataset(tmp_path / "tiny")
    for path in tiny.root.rglob("*.*"):
        server.give(path.relative_to(tiny.root).as_posix(), broken.whole(path.read_bytes()))
    tiny.edit_card(base_url=server.url())
    return tiny


def test_get_and_verify_of_a_dataset(served, tmp_path, server, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "mine"))
    root = tmp_path / "mine" / "tiny"
    call = tiny_dataset.call
    tiny_dataset.assert_refused(call("data", "verify", served.card), "bench data get tiny")
    answer = call("data", "get", served.card, "--sections", "A1,A2", "--json")
    assert answer.status == 0, answer
    assert len(json.loads(answer.stdout)["fetched"]) == 6
    assert answer.stderr.splitlines()[0] == "counts/A1.tsv.gz: fetched"
    assert call("data", "verify", served.card, "--sections", "A1").status == 0
    assert (
        call("data", "get", served.card).stdout
        == f"{root}: 12 files downloaded, 6 kept, 0 failed\n"
    )
    assert "18 files match the card" in call("data", "verify", served.card).stdout
    (root / "spots/A1.tsv").write_bytes(b"changed")
    answer = call("data", "verify", served.card)
    assert answer.status == 2
    assert f"bench: {root}/spots/A1.tsv: 7 bytes, {LOCK} says" in answer.stderr
    answer = call("data", "get", served.card)
    assert answer.status == 1
    assert answer.stderr.startswith("bench: spots/A1.tsv: 7 bytes")
    assert call("data", "get", served.card, "--force").status == 0
    assert call("data", "verify", served.card).status == 0


def test_verify_locks_files_that_a_person_put_there(served):
    call = tiny_dataset.call
    where = (served.card, "--data-root", served.root)
    answer = json.loads(call("data", "verify", *where, "--json").stdout)
    assert (answer["good"], len(answer["unchecked"]), answer["missing"]) == (18, 18, [])
    assert not (served.root / LOCK).exists()
    assert (
        f"18 hashes that the card does not have are recorded in {LOCK}"
        in call("data", "verify", *where, "--lock").stdout
    )
    assert json.loads(call("data", "verify", *where, "--json").stdout)["unchecked"] == []
    served.spots("B1").write_bytes(b"changed")
    assert call("data", "verify", *where).status == 2


def test_get_tells_what_failed_and_what_a_person_must_get(served, server, tmp_path):
    content = served.edit_card()
    content["sections"][0]["files"]["image"]["by_hand"] = "ask the authors"
    served.edit_card(**content)
    server.give("counts/A1.tsv.gz", broken.status(404))
    call = ("data", "get", served.card, "--sections", "A1", "--data-root", tmp_path / "x")
    answer = tiny_dataset.call(*call)
    assert answer.status == 1
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("bench: ")]
    assert line.startswith(f"bench: counts/A1.tsv.gz: {server.url('counts/A1.tsv.gz')} answers 404")
    assert f"  ask the authors\n    put it at {tmp_path}/x/images/A1.jpg\n" in answer.stdout
    missing = tiny_dataset.call("data", "verify", served.card, "--data-root", tmp_path / "nowhere")
    tiny_dataset.assert_refused(missing, "nowhere", "images/A1.jpg by hand (ask the authors)")


def test_a_process_that_is_killed_leaves_no_file_and_the_next_one_goes_on(served, server, tmp_path):
    image = served.image("A1").read_bytes()
    server.give("images/A1.jpg", broken.stalled(image[:1000]), broken.whole(image))
    root = tmp_path / "mine"
    call = ("data", "get", served.card, "--sections", "A1", "--data-root", root)
    process = tiny_dataset.start(*call)
    try:
        deadline = time.monotonic() + 60
        while "/images/A1.jpg" not in server.asked and time.monotonic() < deadline:
            time.sleep(0.02)
        while not list(root.glob("images/.*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    counts, half = left(root)
    assert counts == "counts/A1.tsv.gz"
    assert half.startswith("images/.A1-")
    assert not (root / "images/A1.jpg").exists()
    answer = tiny_dataset.call(*call)
    assert answer.status == 0, answer
    assert "2 files downloaded, 1 kept" in answer.stdout
    assert left(root) == ["counts/A1.tsv.gz", "images/A1.jpg", "spots/A1.tsv"]
    assert (root / "images/A1.jpg").read_bytes() == image


def test_get_of_a_generated_dataset_has_nothing_to_do():
    answer = tiny_dataset.call("data", "get", "demo")
    assert (answer.status, answer.stderr) == (0, "")
    assert "nothing to download" in answer.stdout
