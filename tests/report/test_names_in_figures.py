"""Odd names in figures: shown as they are, never as formulas, and short enough to leave room."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report.figure_style import plain

ODD = [
    *("[bold]", "[/x]", ":smile:", "|", "<b>", r"$\frac{$", "$a$ and $b$", "=cmd", "Größe_λ"),
    *("two\nlines", "\x1b[31mred", "\u202egnirts", "a" * 300, "%s & #1 {x} ~ ^ \\input{x}"),
]


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_drawn_as_it_is(name):
    figure = Figure(figsize=(2, 2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    title = axes.set_title(plain(name))
    figure.draw_without_rendering()
    image = np.asarray(figure.canvas.buffer_rgba()) if figure.canvas.draw() is None else None
    assert image is not None
    text = title.get_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(len(line) for line in text.split("\n")) <= 60 + text.count("$")
    if name.isprintable() and len(name) < 60:
        assert text.replace(r"\$", "$") == name
