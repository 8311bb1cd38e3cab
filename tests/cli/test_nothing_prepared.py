"""``bench run`` on a dataset of which nothing is on this machine."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import yaml

from bench.registry import dataset_card
from tests.cli.tiny_dataset import assert_refused
from tests.datasets.test_stnet import COLUMNS, HGNC, IDS, LINE
from tests.fetch.broken_server import as_json, serving, status, whole

SECTIONS = ("BC23287_C1", "BC23288_D2")


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def home(tmp_path, monkeypatch, own_cache):
    folder = tmp_path / "home"
    monkeypatch.setenv("SPOTBENCH_DATA", str(folder))
    return folder


def files_of_stnet():
    """Files of two sections by name, as the repository has them; their patients differ."""
    rng = np.random.default_rng(0)
    files = {"hgnc.txt": HGNC.encode()}
    metadata = COLUMNS
    for section in SECTIONS:
        patient, replicate = section.split("_")
        line = LINE.replace("BC23287", patient).replace("{}", replicate)
        metadata += line.replace(f",{replicate},", f",{replicate},", 1)
        names = [f"{x}x{y}" for x in range(5, 10) for y in range(7, 12)]
        counts = rng.poisson(6, (25, len(IDS)))
        rows = ["\t".join(["", *IDS])]
        rows += ["\t".join([n, *map(str, c)]) for n, c in zip(names, counts, strict=True)]
        files[f"{section}_stdata.tsv.gz"] = ("\n".join(rows) + "\n").encode()
        places = [tuple(map(int, name.split("x"))) for name in names]
        spots = "".join(f"{x}x{y},{x * 290},{y * 290}\n" for x, y in places)
        files[f"spots_{section}.csv.gz"] = (",X,Y\n" + spots).encode()
        files[f"{section}_Coords.tsv.gz"] = b"xcoord\tycoord\tlab\ttumor\r"
        files[f"HE_{section}.jpg"] = b"not looked at by the mean"
    files["metadata.csv"] = metadata.encode()
    return files


@pytest.fixture
def card(tmp_path, server):
    """The true card, cut down, with the server's addresses in place of the repository's."""
    files = files_of_stnet()
    listing = []
    for name, content in files.items():
        address = server.give(f"files/{name}", whole(content))
        details = {"sha256_hash": hashlib.sha256(content).hexdigest(), "download_url": address}
        listing.append({"filename": name, "size": len(content), "content_details": details})
    stnet = dataset_card("stnet").model_dump(mode="json", exclude_defaults=True)
    del stnet["patient_folds"]  # of patients that are not here
    stnet["sections"] = [s for s in stnet["sections"] if s["name"] in SECTIONS]
    for section in stnet["sections"]:
        section["files"]["symbols"] = {"path": "hgnc.txt", "url": server.url("files/hgnc.txt")}
    stnet["listing"] = server.give("listing", as_json(listing))
    stnet["name"] = "small"
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(stnet))
    return path


def call(bench, card, results):
    return bench(
        *("run", "--method", "mean", "--dataset", card, "--results", results),
        *("--tracking", "none", "--panel", "expressed:3"),
    )


def test_a_run_fetches_what_it_needs(bench, card, home, results, server):
    answer = call(bench, card, results)
    assert answer.status == 0, answer.stderr
    assert "fetched into" in answer.stderr
    assert "mean" in answer.stdout
    lock = json.loads((home / "small" / "spotbench-lock.json").read_text())
    assert "hgnc.txt" in json.dumps(lock)
    asked = dict(server.asked)
    assert call(bench, card, results).status == 0
    assert server.asked == asked


def test_without_a_connection_it_says_what_to_put_where(bench, card, home, results, server):
    server.give("listing", status(404))
    server.give("files/metadata.csv", status(404))
    answer = call(bench, card, results)
    message = assert_refused(
        answer, "bench data get small", str(home / "small"), "mendeley", lines=None
    )
    assert "could not be fetched" in message


def test_what_failed_once_is_fetched_by_the_next_call(bench, card, home, results, server):
    content = files_of_stnet()["BC23288_D2_stdata.tsv.gz"]
    server.give("files/BC23288_D2_stdata.tsv.gz", status(404), whole(content))
    answer = call(bench, card, results)
    assert_refused(answer, "BC23288_D2_stdata.tsv.gz", "404", lines=None)
    assert bench("data", "get", card).status == 0
    assert call(bench, card, results).status == 0


def test_a_named_folder_is_never_filled(bench, card, home, results, server, tmp_path):
    (tmp_path / "empty").mkdir()
    answer = bench(
        *("run", "--method", "mean", "--dataset", card, "--results", results),
        *("--data-root", tmp_path / "empty", "--tracking", "none"),
    )
    assert_refused(answer, "metadata.csv")
    assert server.asked == {}
