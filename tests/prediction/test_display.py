"""Progress of ``bench predict``: a bar on a terminal, lines in a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.cli import display
from bench.cli.prediction_display import PredictionDisplay


@pytest.fixture
def shown(monkeypatch):
    """Makes a display on a terminal or a file; gives it and what was written."""

    def make(*, terminal):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
        monkeypatch.setattr(display, "Console", lambda **options: console)
        return PredictionDisplay(), stream

    return make


def test_a_terminal_has_a_bar_with_spots_rate_and_time_left(shown):
    watcher, stream = shown(terminal=True)
    with watcher:
        for done in (0, 2_000, 5_000):
            watcher.predicted(done, 10_000)
        watcher.bars.refresh()
    text = stream.getvalue()
    assert "5000/10000" in text
    assert "spots/s" in text
    assert "predicted" not in text


def test_a_file_has_at_most_a_line_a_twentieth(shown):
    watcher, stream = shown(terminal=False)
    with watcher:
        for done in range(0, 1_001, 4):
            watcher.predicted(done, 1_000)
        watcher.say("note: \x1b[31m[red]")
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 21
    assert lines[0] == "predicted 52 of 1,000 spots"
    assert lines[-1] == "note: \\x1b[31m[red]"
    assert "\x1b" not in stream.getvalue()
