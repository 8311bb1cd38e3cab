"""Fixtures of downloads: a server, a data folder, cards of one section."""

import pytest

from bench.data.card import DatasetCard
from tests.fetch import broken_server as broken


@pytest.fixture
def server():
    with broken.serving() as running:
        yield running


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "small"


@pytest.fixture
def card(card_fields, server):
    """Makes a card whose section S1 has the given files; the server is its base address."""

    def make(files=None, **changes):
        fields = card_fields(base_url=server.url(), **changes)
        if files is not None:
            fields["sections"] = [{"name": "S1", "patient": "P1", "files": files}]
        return DatasetCard.model_validate(fields)

    return make
