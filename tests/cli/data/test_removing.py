"""``bench data remove``: the card and what is cached, never the files."""

from __future__ import annotations

import pytest

from tests.cli.data.folders import (
    added,
    cached_files,
    shown,
    two_files,
)
from tests.cli.tiny_dataset import assert_refused


def test_an_added_dataset_is_removed_and_the_files_stay(bench, home, tmp_path):
    table = two_files(tmp_path / "files")
    before = {path: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    for name in ("mine", "mine2"):
        added(bench, tmp_path / "files", table, name)
        shown(bench, name)
    assert_refused(bench("data", "remove", "mine"), "--yes")
    assert (home / "cards" / "mine.yaml").is_file()
    answer = bench("data", "remove", "mine", "--yes")
    assert answer.status == 0, answer.stderr
    assert "stay" in answer.stdout
    assert [path.name for path in (home / "cards").iterdir()] == ["mine2.yaml"]
    cached = [path.name for kind in ("sections", "overviews") for path in cached_files(kind)]
    assert cached
    assert all(name.startswith("mine2-") for name in cached)
    assert {path: path.read_bytes() for path in (tmp_path / "files").iterdir()} == before
    assert_refused(bench("data", "remove", "mine", "--yes"), "unknown added dataset", "mine2")


@pytest.mark.parametrize("name", ["demo", "nothing", "../mine", "a/b", "", "x" * 5000])
def test_what_was_not_added_is_not_removed(bench, home, tmp_path, name):
    (home / "cards").mkdir(parents=True)
    (home / "mine.yaml").write_text("name: mine\n")
    answer = bench("data", "remove", name, "--yes")
    assert_refused(answer)
    assert (home / "mine.yaml").is_file()


def test_a_broken_card_is_removed(bench, home):
    (home / "cards").mkdir(parents=True)
    (home / "cards" / "broken.yaml").write_text("name: [\n")
    answer = bench("data", "remove", "broken", "--yes")
    assert answer.status == 0, answer.stderr
    assert list((home / "cards").iterdir()) == []
