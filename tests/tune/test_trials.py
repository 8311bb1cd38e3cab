"""Trials: what is found, what fails, what is kept, what goes on."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml

from bench.cli.options import read_seconds
from bench.errors import ConfigError, StoreError
from bench.evaluate.section import ScoredSection, score_section
from bench.report.tables import score_table
from bench.tune.choices import Budget, ObjectiveScore, Pruner, Sampler
from bench.tune.objective import Objective
from bench.tune.request import equal_budget
from bench.tune.slots import holders, settled
from bench.tune.storage import open_storage
from bench.tune.study import open_study
from bench.tune.tuning import plan_studies, refit, tune


def trials_of(request):
    (spec,) = plan_studies(request)
    return open_study(spec, runs=False).get_trials(deepcopy=False)


@pytest.mark.slow
def test_the_best_of_all_trials_is_found_and_defaults_come_first(request_for):
    request = request_for(trials=12)
    found, failed = tune(request)
    assert not failed
    tuned = found["searcher"][0]
    trials = [trial for trial in trials_of(request) if settled(trial)]
    assert len(trials) == 12
    assert [trial.user_attrs["slot"] for trial in trials] == list(range(12))
    assert trials[0].params == {"shift": 0.5}
    assert tuned.default_value == trials[0].value
    assert tuned.value == min(trial.value for trial in trials)
    assert tuned.value < tuned.default_value
    assert abs(tuned.config["shift"] + tuned.config["lift"]) < 0.5
    assert tuned.config["shift"] == tuned.params["shift"]


def test_settings_of_prediction_are_tried_on_one_fit(request_for, tmp_path):
    log = tmp_path / "fits.log"
    found, _ = tune(request_for(f"log=in {tmp_path}", trials=3))
    assert len(log.read_text().splitlines()) == 3 * 2, "a fit each trial and inner fold, no more"
    tuned = found["searcher"][0]
    shift, lift = tuned.config["shift"], tuned.config["lift"]
    assert abs(shift + lift) == min(abs(shift), abs(shift + 0.25))


def test_what_is_set_is_not_searched(request_for):
    request = request_for("lift=0.25", trials=4)
    found, _ = tune(request)
    assert found["searcher"][0].config["lift"] == 0.25
    assert "lift" not in found["searcher"][0].params
    with pytest.raises(ConfigError, match="fixes all"):
        plan_studies(request_for("lift=0.25", "shift=0.1"))


@pytest.mark.slow
def test_the_same_study_twice_is_the_same(request_for, results, tmp_path):
    first = request_for(trials=8)
    tune(first)
    again = replace(first, run=replace(first.run, results=tmp_path / "elsewhere"))
    tune(again)
    one, two = ([(t.params, t.value) for t in trials_of(request)] for request in (first, again))
    assert one == two


@pytest.mark.slow
def test_a_finished_study_is_read_and_a_larger_budget_goes_on(request_for, tmp_path):
    log = tmp_path / "fits.log"
    request = request_for(f"log=in {tmp_path}", trials=3)
    tune(request)
    fits = log.read_text()
    tune(request)
    assert log.read_text() == fits
    tune(replace(request, trials=5))
    assert len(log.read_text().splitlines()) == 5 * 2
    assert len(trials_of(request)) == 5


@pytest.mark.slow
def test_a_trial_that_fails_is_kept_with_its_reason_and_ends_nothing(request_for):
    request = request_for("fails=positive", trials=10)
    found, failed = tune(request)
    assert not failed
    tuned = found["searcher"][0]
    assert tuned.trials["fail"] > 0
    assert tuned.trials["complete"] + tuned.trials["fail"] == 10
    assert tuned.default_value is None, "the default settings failed"
    reasons = {t.user_attrs.get("reason") for t in trials_of(request)} - {None}
    assert reasons == {"MemoryError: too large"}


def test_a_study_in_which_all_failed_says_why(bench, request_for, tiny, results):
    found, failed = tune(request_for("fails=always", trials=3))
    assert not found
    (one,) = failed
    assert one.reasons == ("RuntimeError: cannot be fitted (3 trials)",)
    answer = bench(
        *("tune", "-m", "searcher", *tiny.where, *tiny.quick_protocol, "--folds", "0"),
        *("--set", "fails=always", "--trials", "3", "--objective", "mse", "--pruner", "none"),
        *("--tracking", "none", "--results", results),
    )
    assert answer.status == 1
    (line,) = (line for line in answer.stderr.splitlines() if line.startswith("bench: "))
    assert "cannot be fitted (3 trials)" in line
    assert not list(results.glob("runs/*/*/tuned-*"))


def test_an_undefined_score_is_a_failure(request_for):
    _, failed = tune(request_for(trials=2, objective=ObjectiveScore.pcc_acg))
    assert "undefined" in failed[0].reasons[0]


@pytest.mark.slow
def test_time_ends_a_study(request_for):
    request = equal_budget(request_for("wait=0.05", timeout=0.5), Budget.time)
    found, _ = tune(request)
    done = sum(found["searcher"][0].trials.values())
    assert 1 <= done < 12
    with pytest.raises(ConfigError, match="--timeout"):
        equal_budget(request_for(), Budget.time)


@pytest.mark.parametrize(("text", "wanted"), [("2h", 7200), ("90min", 5400), ("1.5s", 1.5)])
def test_lengths_of_time(text, wanted):
    assert read_seconds(text) == wanted


@pytest.mark.parametrize("text", ["20", "-2h", "0s", "soon", "", "nan"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(ConfigError, match="--timeout"):
        read_seconds(text)


@pytest.mark.parametrize(("sampler", "pruner"), list(zip(Sampler, Pruner, strict=True)))
@pytest.mark.slow
def test_every_sampler_and_pruner(request_for, sampler, pruner):
    found, _ = tune(request_for(sampler=sampler, pruner=pruner, trials=5))
    counts = found["searcher"][0].trials
    assert sum(counts.values()) == (4 if sampler == Sampler.grid else 5)
    assert counts["complete"] >= 1
    assert bool(counts["pruned"]) <= (pruner != Pruner.none)


@pytest.mark.slow
def test_a_line_that_a_killed_process_left_unfinished_is_mended(request_for, results):
    request = request_for(trials=3)
    tune(request)
    (journal,) = results.glob("tuning/*/*/*/*/journal.log")
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "trial')
    tune(replace(request, trials=4))
    assert journal.read_bytes().startswith(whole)
    assert len(trials_of(request)) == 4


def test_a_journal_that_is_none_is_refused(request_for, results):
    request = request_for(trials=3)
    tune(request)
    (journal,) = results.glob("tuning/*/*/*/*/journal.log")
    journal.write_bytes(b"PAR1\x00\xff\n" * 40)
    with pytest.raises(StoreError, match=r"journal\.log"):
        tune(request)


@pytest.mark.parametrize("url", ["nosuch://x", "sqlite:////proc/nowhere/x.db", "no url at all"])
def test_a_storage_that_cannot_be_used(tmp_path, url):
    with pytest.raises(StoreError):
        open_storage(url, tmp_path)


def test_a_password_is_not_shown(tmp_path):
    with pytest.raises(StoreError) as caught:
        open_storage("postgresql+psycopg://me:secret@localhost:1/x", tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_sqlite_works_too(request_for, tmp_path):
    found, _ = tune(request_for(storage=f"sqlite:///{tmp_path / 'trials.db'}", trials=3))
    assert found["searcher"][0].trials["complete"] == 3
    assert (tmp_path / "trials.db").is_file()


@pytest.mark.slow
def test_trials_of_a_slot_that_is_taken_do_not_count(request_for):
    request = request_for(trials=2)
    (spec,) = plan_studies(request)
    study = open_study(spec, runs=False)
    for _ in range(3):
        study.enqueue_trial({}, user_attrs={"slot": 0})
    tune(request)
    trials = trials_of(request)
    assert sum(map(settled, holders(trials).values())) == 2
    assert sum(t.state == optuna.trial.TrialState.COMPLETE for t in trials) == 2


# ------------------------------------------------------------------------------ what is left


@pytest.mark.slow
def test_files_of_a_study(request_for, results, figures):
    request = request_for(trials=5)
    found, _ = tune(request)
    (folder,) = results.glob("tuning/tiny/patients/searcher-*/fold-0")
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["config"] == found["searcher"][0].config
    table = pd.read_csv(folder / "trials.csv", float_precision="round_trip")
    assert len(table) == 5
    assert table["value"].min() == best["value"]
    assert {"param.shift", "param.lift", "seconds", "reason"} <= set(table.columns)
    facts = json.loads((folder / "study.json").read_text())
    assert facts["budget"] == {"trials": 5, "timeout_seconds": None, "jobs": 1}
    assert facts["trials"] == {"complete": 5, "pruned": 0, "fail": 0}
    for name in ("history", "parallel-coordinates", "importance"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_best_settings_are_refitted_in_their_own_folds(request_for):
    request = request_for(folds=(0, 2), trials=4)
    found, _ = tune(request)
    default, tuned = refit(request, found)
    assert not default.failures
    assert not tuned.failures
    (run,) = tuned.runs
    assert run.facts["label"] == "tuned:searcher"
    assert run.done == (0, 2)
    for fold in (0, 2):
        assert run.facts["tuned"][str(fold)] == found["searcher"][fold].config
        (job,) = (job for job in tuned.plan.jobs() if job.fold == fold)
        assert job.method_spec.config["shift"] == found["searcher"][fold].config["shift"]
    row = score_table(tuned.runs).set_index("method").loc["tuned:searcher"]
    assert row["mse"] < score_table(default.runs).set_index("method").loc["searcher", "mse"]


@pytest.mark.slow
def test_the_command_prints_tuned_against_default(bench, searcher, tiny, results):
    call = ("tune", "-m", "searcher", *tiny.where, *tiny.quick_protocol, "--trials", "4")
    call += ("--objective", "mse", "--tracking", "none", "--results", results)
    answer = bench(*call)
    assert answer.status == 0, answer.stderr
    assert "tuned:searcher" in answer.stdout
    assert "Tuned against default" in answer.stdout
    # Hyperband deals trials to brackets by the study's name, which changes with the code.
    ended = re.findall(r"(\d) complete(?:, (\d) pruned)?; mse", answer.stderr)
    assert len(ended) == 3
    assert all(int(complete) + int(pruned or 0) == 4 for complete, pruned in ended)
    again = bench(*call, "--json")
    content = json.loads(again.stdout)
    assert {row["method"] for row in content["rows"]} == {"tuned:searcher", "searcher"}
    assert "done in" not in again.stderr


@pytest.mark.slow
def test_best_settings_can_be_run_from_their_file_alone(
    bench, searcher, tiny, results, tmp_path, monkeypatch
):
    call = ("--trials", "4", "--objective", "mse", "--folds", "1", "--seed", "3")
    where = (*tiny.where, *tiny.quick_protocol, "--tracking", "none", "--results", results)
    bench("tune", "-m", "searcher", *call, *where)
    (best,) = results.glob("tuning/*/*/*/fold-1/best.yaml")
    monkeypatch.chdir(tmp_path)  # the paths in the file hold everywhere
    last = ("--no-oracles", "--json", "--tracking", "none", "--results", results)
    answer = bench("run", "--config", best, *last)
    (row,) = json.loads(answer.stdout)["rows"]
    (tuned,) = (
        json.loads((path.parent / "run.json").read_text())
        for path in results.glob("runs/*/*/tuned-searcher-*/run.json")
    )
    (run,) = (
        facts
        for path in results.glob("runs/*/*/searcher-*/run.json")
        if (facts := json.loads(path.read_text()))["key"].startswith(row["key"])
    )
    assert run["config"] == tuned["tuned"]["1"]
    assert (run["seed"], run["protocol"]) == (3, "patients")
    assert (row["folds"], row["n_folds"]) == (1, 3)
    again = bench("run", "--config", best, "--folds", "1", *where, "--no-oracles", "--json")
    assert json.loads(again.stdout)["rows"][0]["key"] == row["key"]


@pytest.mark.parametrize("name", list(ObjectiveScore))
def test_scores_are_those_of_a_run(name):
    rng = np.random.default_rng(0)
    expression, prediction = rng.normal(size=(2, 20, 8))
    prediction[:, 3] = 1.0  # undefined, and so left out
    heg = np.arange(8) < 5
    totals = rng.integers(1, 100, 20)
    truth = SimpleNamespace(expression=expression, heg=heg, totals=totals)
    objective = Objective(
        *("", None, ("tiny", "-"), {}, ()), score=name, seed=0, device="cpu", precision="32",
        prunes=False, worker="",
    )  # fmt: skip
    wanted = score_section(ScoredSection(expression, prediction, heg, totals=totals))[0][name]
    found = objective.score(SimpleNamespace(truth=[truth, truth]), [prediction, prediction])
    assert found == wanted
