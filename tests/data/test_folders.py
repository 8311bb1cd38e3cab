"""Folders into which files may be fetched: never one that a card names."""

import pytest

from bench.data.folders import download_folder
from bench.errors import DataError


@pytest.mark.parametrize("linked", [False, True])
def test_nothing_is_fetched_into_a_folder_that_a_card_names(make_card, tmp_path, linked):
    victim = tmp_path / "site-packages"
    victim.mkdir()
    named = victim
    if linked:
        named = tmp_path / "data"
        named.symlink_to(victim)
    card = make_card(folder=str(named))
    with pytest.raises(DataError, match=r"folder: .*--data-root") as refusal:
        download_folder(card, None)
    assert "\n" not in str(refusal.value)
    assert download_folder(card, tmp_path / "own") == tmp_path / "own"
    assert not list(victim.iterdir())


def test_a_card_without_a_folder_has_one_below_the_data_root(make_card, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path))
    assert download_folder(make_card(), None) == tmp_path / "small"
