"""Small fits of the networks, made in the same way for all their tests."""

from functools import partial

from bench.api import Context
from bench.registry import method_class

CONFIGURED = {
    "bleep": ("small", "tiny", {"batch_size": 20}),
    "hist2st": ("small", "tiny", {}),
    "histogene": ("small", "tiny", {}),
    "mclstexp": (
        "tiny",
        "quick",
        {"input_size": 32, "epochs": 2, "batch_size": 20, "top_k": 5, "heads": 2, "head_dim": 8},
    ),
    "thitogene": ("tiny", "tiny", {}),
    "triplex": ("small", "tiny", {}),
}
"""Dataset, preset and changes that a method's fits are made with."""


def fit(name, data, **changes):
    """A method fitted on a fold, and the context that has its curves."""
    kind = method_class(name)
    dataset, preset, usual = CONFIGURED[name]
    method, context = kind(kind.configure(dataset, preset, {**usual, **changes})), Context(seed=1)
    method.fit(data, context)
    return method, context


def fitted_by(name):
    """``fit`` of one method."""
    return partial(fit, name)


def predict(method, slide):
    """Prediction of one slide."""
    return method.predict([slide], Context(seed=1))[0]
