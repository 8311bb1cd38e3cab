"""Methods that train by epochs can be looked at in between, and looking changes nothing."""

from itertools import pairwise

import numpy as np
import pytest

from bench.api import Context
from bench.contract.small_fold import GENES, as_slide, first_spots
from bench.registry import find_methods, method_class

EPOCHS = 3
METHODS = [
    name
    for name, found in sorted(find_methods().items())
    if found.source == "built-in" and "epochs" in method_class(name).Config.model_fields
]


class Looking:
    """Predicts after every epoch; ends the fit where it is told to."""

    def __init__(self, method, slides, error=None):
        self.method, self.slides, self.error = method, slides, error
        self.asked, self.seen = [], {}

    def wants(self, done, total):
        self.asked.append((done, total))
        return True

    def __call__(self, done, total):
        assert total == EPOCHS
        self.seen[done] = self.method.predict(self.slides, Context(seed=1))
        if self.error is not None:
            raise self.error


@pytest.fixture(scope="module")
def slides(data):
    """Two slides of different length."""
    return [as_slide(data.validation[0]), first_spots(as_slide(data.train[0]), 7)]


def made(name, **changes):
    kind = method_class(name)
    if "batch_size" in kind.Config.model_fields:
        changes = {"batch_size": 20, **changes}
    return kind(kind.configure("small", "tiny", {"epochs": EPOCHS, **changes}))


def same(one, other):
    return [part.tobytes() for part in one] == [part.tobytes() for part in other]


def test_the_networks_train_by_epochs():
    assert METHODS == [
        "bleep",
        "deepspot",
        "hist2st",
        "histogene",
        "mclstexp",
        "mlp",
        "stnet",
        "thitogene",
        "triplex",
    ]


EVERY = [
    pytest.param(name, marks=[] if name in {"mclstexp", "stnet"} else pytest.mark.slow)
    for name in METHODS
]
"""All networks, of which two are tried each time: they share the training that is looked into."""


@pytest.mark.parametrize("patience", [None, EPOCHS], ids=["all epochs", "early stopping"])
@pytest.mark.parametrize("name", EVERY)
def test_it_predicts_between_epochs_and_looking_changes_nothing(name, patience, data, slides):
    alone, context = made(name, patience=patience), Context(seed=1)
    alone.fit(data, context)
    watched = made(name, patience=patience)
    inspector = Looking(watched, slides)
    watching = Context(seed=1, inspector=inspector)
    watched.fit(data, watching)

    # The last epoch is no longer in between.
    assert inspector.asked == [(done, EPOCHS) for done in range(1, EPOCHS)]
    assert list(inspector.seen) == list(range(1, EPOCHS))
    for predictions in inspector.seen.values():
        assert [p.shape for p in predictions] == [(len(slide), GENES) for slide in slides]
        assert all(p.dtype == np.float32 and np.isfinite(p).all() for p in predictions)
    final = watched.predict(slides, Context(seed=1))
    steps = [*inspector.seen.values(), final]
    if patience is None:
        assert not any(same(one, other) for one, other in pairwise(steps))
    assert same(final, alone.predict(slides, Context(seed=1)))
    assert watching.curves == context.curves


@pytest.mark.parametrize("name", EVERY)
def test_what_is_seen_in_between_is_what_a_fit_of_so_many_epochs_predicts(name, data, slides):
    watched = made(name)
    inspector = Looking(watched, slides)
    watched.fit(data, Context(seed=1, inspector=inspector))
    short = made(name, epochs=2)
    short.fit(data, Context(seed=1))
    assert same(inspector.seen[2], short.predict(slides, Context(seed=1)))


class Enough(Exception):
    """Raised by an inspector that has seen enough."""


@pytest.mark.parametrize("name", METHODS)
def test_an_inspector_ends_the_fit_by_raising(name, data, slides):
    method = made(name)
    error = Enough("no better than the others")
    inspector = Looking(method, slides, error)
    with pytest.raises(Enough) as caught:
        method.fit(data, Context(seed=1, inspector=inspector))
    assert caught.value is error
    assert str(caught.value) == "no better than the others"
    assert list(inspector.seen) == [1]
