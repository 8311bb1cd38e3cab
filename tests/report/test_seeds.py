"""Rows over several seeds, against a plain recomputation from the stored scores."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bench.report.collections import collection_table
from bench.report.data_efficiency import efficiency_figure, efficiency_lines
from bench.report.footnotes import footnotes
from bench.report.pairs import pair_table, section_scores
from bench.report.seeds import by_seed, shown_seeds
from bench.report.tables import for_people, newest, render, row_name, score_table
from tests.report.test_tables import score, store  # noqa: F401 - a fixture

SEEDS = (0, 1, 2, 5)


@pytest.fixture
def seeded(store):  # noqa: F811
    """Runs of one method over several seeds, and all their scores in one table."""

    def make(label="method", **changes):
        stored = {seed: store(label, seed=seed, **changes) for seed in SEEDS}
        scores = pd.concat([of.assign(seed=seed) for seed, (_, of) in stored.items()])
        return [run for run, _ in stored.values()], scores

    return make


def plain_interval(values, patients, resamples=20_000):
    """95 % interval of :func:`bootstrap_interval` by its description, one resample after another.

    Patient means are shrunk to what is due to patients, residuals widened for few sections, and
    the percentiles are those of Student's t for the number of patients.
    """
    table = pd.DataFrame({"value": values, "patient": patients})
    grouped = table.groupby("patient")["value"]
    size, mean = grouped.size(), grouped.mean()
    within = ((table["value"] - grouped.transform("mean")) ** 2).sum() / (len(table) - len(size))
    between = max(mean.var(ddof=1) - within * (1 / size).mean(), 0.0)
    shrunk = table["value"].mean() + (mean - table["value"].mean()) * np.sqrt(
        between / (between + within / size)
    )
    made = {
        name: shrunk[name] + np.sqrt(size[name] / (size[name] - 1)) * (of - mean[name])
        for name, of in grouped
    }
    centre = table["value"].mean() - np.concatenate([of.to_numpy() for of in made.values()]).mean()
    rng, names, means = np.random.default_rng(7), list(made), []
    for _ in range(resamples):
        drawn = [made[names[n]].to_numpy() for n in rng.integers(len(names), size=len(names))]
        means.append(np.concatenate([rng.choice(of, len(of)) for of in drawn]).mean() + centre)
    count = len(names)
    tail = scipy.stats.norm.cdf(-np.sqrt(count / (count - 1)) * scipy.stats.t.ppf(0.975, count - 1))
    return np.quantile(means, [tail, 1 - tail])


def test_a_section_counts_with_its_mean_over_the_seeds(seeded):
    runs, scores = seeded()
    (row,) = score_table(runs).to_dict("records")
    for name in ("pcc_acg", "pcc_heg", "mse", "mae"):
        part = scores[(scores["score"] == name) & (scores["section"] != "")]
        wide = part.pivot_table(index=["patient", "section"], columns="seed", values="value")
        assert wide.shape == (6, len(SEEDS))
        sections = wide.to_numpy().mean(axis=1)
        assert row[name] == pytest.approx(np.mean(sections), rel=1e-13)
        assert row[f"{name}_sd"] == pytest.approx(np.std(sections, ddof=1), rel=1e-12)
        of_seeds = wide.to_numpy().mean(axis=0)
        assert row[f"{name}_sd_seeds"] == pytest.approx(np.std(of_seeds, ddof=1), rel=1e-12)
    assert row["seed"] == "0-2,5"
    assert row["seeds"] == len(SEEDS)
    assert (row["folds"], row["n_folds"], row["sections"]) == (12, 12, 6)
    assert row["fit_seconds"] == pytest.approx(1.5 + 2.5 + 3.5)


def test_the_interval_resamples_patients_of_the_means_over_seeds(seeded):
    runs, scores = seeded()
    (row,) = score_table(runs).to_dict("records")
    part = scores[(scores["score"] == "pcc_acg") & (scores["section"] != "")]
    means = part.groupby(["patient", "section"])["value"].mean().reset_index()
    low, high = plain_interval(means["value"], means["patient"])
    width = row["pcc_acg_high"] - row["pcc_acg_low"]
    assert row["pcc_acg_low"] == pytest.approx(low, abs=0.05 * width)
    assert row["pcc_acg_high"] == pytest.approx(high, abs=0.05 * width)


def test_pooled_scores_are_means_over_seeds_and_folds(seeded):
    runs, scores = seeded()
    (row,) = score_table(runs).to_dict("records")
    pooled = scores[scores["score"] == "pooled_pcc_acg"]
    by_fold = pooled.groupby("fold")["value"].mean()
    assert row["pooled_pcc_acg"] == pytest.approx(by_fold.mean(), rel=1e-13)
    assert row["pooled_pcc_acg_sd"] == pytest.approx(np.std(by_fold), rel=1e-12)
    of_seeds = pooled.groupby("seed")["value"].mean()
    assert row["pooled_pcc_acg_sd_seeds"] == pytest.approx(np.std(of_seeds, ddof=1), rel=1e-12)


def test_pairs_compare_the_means_over_seeds(seeded):
    (one, of_one), (two, of_two) = seeded("one"), seeded("two")
    (pair,) = pair_table([*one, *two]).to_dict("records")

    def means(scores):
        part = scores[(scores["score"] == "pcc_acg") & (scores["section"] != "")]
        return part.groupby("section")["value"].mean()

    difference = means(of_one) - means(of_two)
    sign = 1 if pair["first"] == "one" else -1
    assert pair["difference"] == pytest.approx(sign * difference.mean(), rel=1e-12)
    assert pair["wilcoxon"] == scipy.stats.wilcoxon(difference).pvalue
    assert (pair["sections"], pair["patients"]) == (6, 3)
    table = section_scores(one, "pcc_acg")
    np.testing.assert_allclose(table["one"], means(of_one), rtol=1e-13)


def test_an_undefined_value_is_left_out_of_the_mean_over_seeds(store):  # noqa: F811
    runs = [
        store("method", seed=0, changes={"A1": {"pcc_acg": np.nan}, "A2": {"pcc_acg": 0.5}})[0],
        store("method", seed=1, changes={"A1": {"pcc_acg": 0.25}, "A2": {"pcc_acg": 0.25}})[0],
    ]
    values = section_scores(runs, "pcc_acg")["method"]
    assert (values["A1"], values["A2"]) == (0.25, 0.375)


def test_columns_for_people_are_there_only_with_several_seeds(seeded, store):  # noqa: F811
    runs, _ = seeded()
    shown = for_people(score_table([*runs, store("other")[0]]))
    by_method = shown.set_index("method")
    assert list(by_method.loc[["method", "other"], "seeds"]) == ["4", "1"]
    assert by_method.loc["other", "sd over seeds"] == "–"
    float(by_method.loc["method", "sd over seeds"])
    assert any(note.startswith("seeds: ") for note in footnotes(runs, score_table(runs)))
    single = render([runs[0]], "text")
    assert "sd over seeds" not in single
    assert "seeds" not in single


def test_incomplete_seeds_are_named_and_have_no_part_in_the_deviation(store):  # noqa: F811
    stored = [
        store("method", seed=0),
        store("method", seed=1),
        store("method", seed=2, done=(0, 2)),
        store("method", seed=3, done=()),
    ]
    runs = [run for run, _ in stored]
    (row,) = score_table(runs).to_dict("records")
    assert (row["seeds"], row["folds"], row["n_folds"]) == (3, 8, 12)
    means = [
        of[(of["score"] == "mse") & (of["section"] != "")]["value"].mean() for _, of in stored[:2]
    ]
    assert row["mse_sd_seeds"] == pytest.approx(np.std(means, ddof=1), rel=1e-12)
    notes = footnotes(runs, score_table(runs))
    (two,) = [note for note in notes if note.startswith("method, seed 2:")]
    (three,) = [note for note in notes if note.startswith("method, seed 3:")]
    assert "2 of 3 folds" in two
    assert "0 of 3 folds" in three


def test_a_row_of_one_seed_is_that_of_its_run(store):  # noqa: F811
    run, scores = store("method")
    (row,) = score_table([run]).to_dict("records")
    part = scores[(scores["score"] == "mse") & (scores["section"] != "")]["value"]
    assert row["mse"] == part.to_numpy().mean()
    assert (row["seed"], row["seeds"]) == (0, 1)
    assert np.isnan(row["mse_sd_seeds"])


def test_only_runs_that_differ_in_the_seed_alone_are_together(store):  # noqa: F811
    runs = [
        store("method", seed=0)[0],
        store("method", seed=1, config={"epochs": 2})[0],
        store("method", seed=2, folds_hash="0" * 64)[0],
        store("method", seed=3, train_patients=1)[0],
        store("method", seed=0, created="2021-01-01")[0],
    ]
    assert [len(row.runs) for row in by_seed(runs)] == [1] * 5
    assert len(newest(runs)) == 4


def test_machine_formats_have_the_seeds(seeded):
    runs, _ = seeded()
    (row,) = json.loads(render(runs, "json"))["rows"]
    assert (row["seed"], row["seeds"]) == ("0-2,5", 4)
    assert row["pcc_acg_sd_seeds"] == score_table(runs)["pcc_acg_sd_seeds"].item()
    assert row["train_patients"] is None
    heading, line = render(runs, "csv").splitlines()
    at = heading.split(",").index("seeds")
    assert line.replace('"0-2,5"', "x").split(",")[at] == "4"


def test_a_collection_averages_over_seeds_too(seeded):
    runs, _ = seeded()
    table = collection_table("all", {"one": runs, "two": runs}, published=False)
    (row,) = table.to_dict("records")
    assert row["mean"] == pytest.approx(score_table(runs)["pcc_acg"].item(), rel=1e-13)
    assert row["seed"] == "0-2,5"


@pytest.mark.parametrize(
    ("seeds", "shown"),
    [([3], "3"), ([1, 0], "0,1"), ([0, 1, 2], "0-2"), ([9, 0, 1, 2, 4], "0-2,4,9")],
)
def test_seeds_are_shown_as_the_option_takes_them(seeds, shown):
    assert shown_seeds(seeds) == shown


# ------------------------------------------------------------- numbers of training patients


@pytest.fixture
def reduced(store):  # noqa: F811
    """Runs with one, two and all training patients, and another method with all."""
    sizes = {1: score(0.2), 2: score(0.3)}
    runs = [
        store("method", changes=changes, train_patients=size, training_patients=4.5)[0]
        for size, changes in sizes.items()
    ]
    runs.append(store("method", changes=score(0.4), training_patients=4.5)[0])
    return [*runs, store("other", training_patients=4.5)[0]]


def test_each_number_of_patients_is_a_row_with_a_name_of_its_own(reduced):
    table = score_table(reduced)
    names = {row_name(row, table) for row in table.to_dict("records")}
    assert names == {"method", "method, 1 training patient", "method, 2 training patients", "other"}
    shown = for_people(table)
    assert sorted(shown["train patients"]) == ["1", "2", "all", "all"]
    assert len(pair_table(reduced)) == 6


def test_the_figure_places_all_patients_at_their_number(reduced):
    lines = efficiency_lines(reduced)
    assert {name: [count for count, _ in line] for name, line in lines.items()} == {
        "method": [1.0, 2.0, 4.5]
    }
    figure = efficiency_figure(reduced)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4.5"]
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_ydata(), [0.2, 0.3, 0.4])
    assert efficiency_figure(reduced[2:]) is None
