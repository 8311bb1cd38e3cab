"""A study sees the training sections of its fold and nothing of its test sections."""

import json
import pickle
import shutil

import pytest

from bench.data.dataset import open_dataset
from bench.errors import BenchError, ConfigError, DataError
from bench.execute.inputs import FoldInputs
from bench.protocol.folds import Fold
from bench.protocol.rules import PUBLISHED, STRICT
from bench.registry import dataset_card
from bench.tune.inner import inner_folds, inner_inputs
from bench.tune.study import work
from bench.tune.tuning import plan_studies, tune

FOLD = Fold(index=0, train=("B1", "B2"), validation=("C1", "C2"), test=("A1", "A2"))


@pytest.fixture
def dataset(tiny):
    return open_dataset(dataset_card(str(tiny.card)), tiny.root, images=False)


def test_inner_folds_are_made_of_training_patients(dataset):
    seen, folds = inner_folds(FOLD, dataset, STRICT, 3)
    assert set(seen.hashes) == {"B1", "B2", "C1", "C2"}
    assert len(folds.folds) == 2
    for fold in folds.folds:
        used = {*fold.train, *fold.validation}
        assert used | set(fold.test) == set(seen.hashes)
        assert {name[0] for name in used}.isdisjoint({name[0] for name in fold.test})
    with pytest.raises(DataError, match="A1"):
        seen.section("A1")


def test_what_an_objective_holds_has_no_word_of_the_test_sections(dataset, tmp_path):
    seen, folds = inner_folds(FOLD, dataset, STRICT, 3)
    inputs = [FoldInputs(source, tmp_path) for source in inner_inputs(seen, folds, STRICT, None)]
    held = pickle.dumps([one.data for one in inputs])
    for name in (b"B1", b"C2"):
        assert name in held
    for section in ("A1", "A2"):
        truth = dataset.section(section).adata
        assert f"section {section}".encode() not in held
        assert truth.X.toarray().astype("float32").tobytes() not in held


def test_one_training_patient_is_divided_by_section(dataset):
    fold = FOLD.model_copy(update={"train": ("B1", "B2"), "validation": ()})
    _, folds = inner_folds(fold, dataset, STRICT, 3)
    assert [inner.test for inner in folds.folds] == [("B1",), ("B2",)]


def test_one_training_section_cannot_be_divided(dataset):
    fold = FOLD.model_copy(update={"train": ("B1",), "validation": ()})
    with pytest.raises(BenchError, match="fold 0 trains on section B1 alone"):
        inner_folds(fold, dataset, STRICT, 3)


def test_inner_folds_keep_patients_apart_whatever_the_outer_split_does(dataset):
    fold = FOLD.model_copy(update={"train": ("A2", "B1", "B2", "C1", "C2"), "validation": ()})
    rules = PUBLISHED.model_copy(update={"sections": "all", "panel": "hvg"})
    _, folds = inner_folds(fold, dataset, rules, 3)
    assert [inner.test for inner in folds.folds] == [("A2",), ("B1", "B2"), ("C1", "C2")]


@pytest.mark.slow
def test_a_study_runs_where_the_test_sections_are_gone(request_for, damaged, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPOTBENCH_CACHE", str(cache))
    (spec,) = plan_studies(request_for(dataset=damaged))
    shutil.rmtree(cache)
    monkeypatch.setattr("bench.data.dataset._kept", {})
    for section in ("A1", "A2"):
        damaged.counts(section).unlink()
        damaged.spots(section).unlink()
        damaged.image(section).unlink()
    work(spec)
    assert (spec.folder / "journal.log").is_file()
    with pytest.raises(DataError):
        spec.job.source.dataset.section("A1")


@pytest.mark.slow
def test_fits_of_a_study_get_training_sections_alone(request_for, tmp_path):
    log = tmp_path / "fits.log"
    tune(request_for(f"log=in {tmp_path}"))
    fits = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(fits) == 6 * 2
    assert {name for _, names in fits for name in names} == {"B1", "B2", "C1", "C2"}


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mean", "control"),
        ("shuffled:ridge", "twin"),
        ("depth", "unknown method"),
        ("searchr", "searcher"),
    ],
)
def test_what_cannot_be_tuned_is_refused(request_for, method, words):
    from dataclasses import replace

    request = request_for()
    with pytest.raises(BenchError, match=words):
        plan_studies(replace(request, run=replace(request.run, methods=(method,))))


def test_a_request_without_work_is_refused(request_for):
    with pytest.raises(ConfigError):
        plan_studies(request_for(trials=0))
    with pytest.raises(ConfigError):
        plan_studies(request_for(inner_folds=1))
