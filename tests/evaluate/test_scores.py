"""Declarations of scores: complete, consistent, and computed as they are stored."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from bench.evaluate.scores import (
    BY_NAME,
    COMPARABLE,
    LEADING,
    POOLED_SCORES,
    SCORES,
    SECTION_SCORES,
    TUNABLE,
)
from bench.evaluate.section import GENE_COLUMNS, ScoredSection, score_pooled, score_section


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    truth = rng.gamma(2, size=(60, 30))
    prediction = 0.5 * truth + rng.normal(size=truth.shape)
    truth[:, 4] = 1.0
    return truth, prediction, np.arange(30) < 6


def test_names_headings_and_ranks_are_unique():
    assert len(BY_NAME) == len(SCORES)
    assert len({score.heading for score in SCORES}) == len(SCORES)
    ranks = [
        column.gives_way
        for score in SCORES
        for column in (score, score.interval, score.share)
        if column and column.gives_way
    ]
    assert len(set(ranks)) == len(ranks)


def test_references_between_scores_exist():
    assert LEADING in BY_NAME
    for score in SCORES:
        if score.ceiling:
            assert BY_NAME[score.ceiling].better is None
        else:
            assert score.share is None
        assert score.spread or score.interval is None


def test_a_tunable_score_has_a_direction_and_can_be_compared():
    assert set(TUNABLE) <= set(COMPARABLE)


def test_every_section_score_and_gene_column_is_given(arrays):
    scores, genes = score_section(ScoredSection(*arrays))
    assert list(scores) == [score.name for score in SECTION_SCORES]
    assert list(genes) == list(GENE_COLUMNS)
    assert {score.per_gene for score in SCORES} - {""} <= set(GENE_COLUMNS)
    truth, prediction, heg = arrays
    pooled = score_pooled([truth], [prediction], [heg])
    assert list(pooled) == [score.name for score in POOLED_SCORES]


@pytest.mark.parametrize("score", [s for s in SECTION_SCORES if s.per_gene], ids=lambda s: s.name)
def test_a_score_per_gene_is_the_mean_of_its_column(score, arrays):
    scores, genes = score_section(ScoredSection(*arrays))
    chosen = genes[genes["heg"]] if score.name.endswith("_heg") else genes
    assert scores[score.name] == pytest.approx(chosen[score.per_gene].mean(), nan_ok=True)


def test_scores_that_need_the_scale_are_those_that_change_with_it(arrays):
    truth, prediction, heg = arrays
    before, _ = score_section(ScoredSection(truth, prediction, heg))
    after, _ = score_section(ScoredSection(truth, 3 * prediction + 5, heg))
    for score in SECTION_SCORES:
        if not np.isnan(before[score.name]):
            same = after[score.name] == pytest.approx(before[score.name], abs=1e-9)
            assert same != score.needs_scale, score.name


def test_a_better_prediction_has_the_better_value(arrays):
    truth, prediction, heg = arrays
    worse, _ = score_section(ScoredSection(truth, prediction, heg))
    better, _ = score_section(ScoredSection(truth, (truth + prediction) / 2, heg))
    for name, score in COMPARABLE.items():
        if not np.isnan(worse[name]):
            assert (better[name] > worse[name]) == (score.better == "higher"), name


def test_declarations_are_read_without_an_array_library():
    program = "import sys, bench.evaluate.scores; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_places_are_ordered():
    score = dataclasses.replace(BY_NAME[LEADING], place="page")
    assert [score.is_in(place) for place in ("machine", "page", "text")] == [True, True, False]
    assert not dataclasses.replace(score, place="none").is_in("machine")
