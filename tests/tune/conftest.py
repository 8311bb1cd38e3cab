"""A method that can be tuned in milliseconds, and a request to tune it."""

from __future__ import annotations

import sys
import textwrap

import pytest

from bench.cli.options import settings_of
from bench.execute.request import Request
from bench.tune.choices import ObjectiveScore, Pruner
from bench.tune.request import TuneRequest
from tests.cli.conftest import (  # noqa: F401 - fixtures
    bench,
    bench_process,
    damaged,
    plugins,
    results,
    tiny,
)
from tests.cli.tiny_dataset import write_plugin

SEARCHER = '''
"""Adds a number to the training mean: the nearer to zero, the lower the error."""

import json
import time
from pathlib import Path

import numpy as np

from bench.api import Method, MethodConfig


class SearcherConfig(MethodConfig):
    shift: float = 0.5
    lift: float = 0.25
    fails: str = ""
    hold: str = ""
    log: str = ""
    wait: float = 0.0


class Searcher(Method):
    name = "searcher"
    Config = SearcherConfig
    needs_image = False
    presets = {"quick": {}, "tiny": {}}
    predict_space = {"lift": (0.0, 0.25)}

    @classmethod
    def search_space(cls, trial):
        return {"shift": trial.suggest_float("shift", -1.0, 1.0)}

    def fit(self, data, context):
        if self.config.log:
            with open(Path(self.config.log.removeprefix("in "), "fits.log"), "a") as stream:
                names = [section.name for section in data.sections]
                stream.write(json.dumps([self.config.shift, names]) + "\\n")
        # A setting that names a folder would stand for its content.
        hold = Path(self.config.hold.removeprefix("in "))
        if self.config.hold and hold.exists():
            hold.with_name(hold.name + ".started").touch()
            while hold.exists():
                time.sleep(0.05)
        time.sleep(self.config.wait)
        if self.config.fails == "always":
            raise RuntimeError("cannot be fitted")
        if self.config.fails == "positive" and self.config.shift > 0:
            raise MemoryError("too large")
        self.mean = np.concatenate([s.target for s in data.sections]).mean(axis=0)

    def predict(self, slides, context):
        value = self.mean + self.config.shift + self.config.lift
        return [np.tile(value, (len(s), 1)).astype(np.float32) for s in slides]

    def save(self, folder):
        np.save(folder / "mean.npy", self.mean)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.mean = np.load(folder / "mean.npy", allow_pickle=False)
        return method
'''


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """No figures of a study but for a test that asks for `figures`: they cost seconds."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr("bench.tune.tuning.study_figures", lambda *_: [])


@pytest.fixture
def figures():
    """Studies draw their figures."""


@pytest.fixture
def searcher(plugins):  # noqa: F811
    """The name of the method, installed for this process and its children."""
    write_plugin(plugins, "searcher", module="plugin_searcher")
    (plugins / "plugin_searcher.py").write_text(textwrap.dedent(SEARCHER))
    entry = plugins / "plugin_searcher-1.0.dist-info" / "entry_points.txt"
    entry.write_text("[bench.methods]\nsearcher = plugin_searcher:Searcher\n")
    sys.modules.pop("plugin_searcher", None)
    yield "searcher"
    sys.modules.pop("plugin_searcher", None)


@pytest.fixture
def request_for(searcher, tiny, results):  # noqa: F811
    """Makes a request to tune the method on a few trials."""

    def make(*settings, dataset=tiny, folds=(0,), **changes):
        run = Request(
            methods=(searcher,),
            dataset=str(dataset.card),
            data_root=dataset.root,
            protocol=dataset.quick_protocol[1],
            folds=folds,
            settings=settings_of(settings),
            results=results,
        )
        chosen = {"trials": 6, "objective": ObjectiveScore.mse, "pruner": Pruner.none, **changes}
        return TuneRequest(run, **chosen)

    return make
