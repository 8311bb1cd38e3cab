"""Fixtures for the commands on datasets."""

from __future__ import annotations

import pytest


@pytest.fixture
def home(tmp_path, monkeypatch, own_cache):
    """A data home of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SPOTBENCH_DATA", str(folder))
    return folder
