"""What a method does in its process costs its own fold and changes no other number."""

from __future__ import annotations

import json

import pytest

from tests.cli.tiny_dataset import scores_of, write_plugin

SURVIVES = {
    # What a method may leave behind without harm to itself or to others.
    "default_dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "default_device": "import torch; torch.set_default_device('meta')",
    "numpy_raises": "import warnings; np.seterr(all='raise'); warnings.simplefilter('error')",
    "leaves_folder": "import os; os.chdir('/')",
    "prints": "import os; print('HELLO'); os.write(1, b'HELLO')",
    "thread_without_end": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    ),
    "child_without_end": "import os, time\nif os.fork() == 0:\n    time.sleep(600)",
    "signals": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "file_limit": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))",
    "environment": "import os; os.environ.clear()",
    "patches_the_harness": (
        "import bench.evaluate.metrics, bench.execute.scoring\n"
        "bench.execute.scoring.score_section = None"
    ),
}
FAILS = {
    # Statement and what the reason says.
    "exits": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "exits_at_once": ("import os; os._exit(0)", "exit status 0 before it gave an answer"),
    "is_killed": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "killed by SIGKILL, as the system does where memory runs out",
    ),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    "aborts": ("import os; os.abort()", "killed by SIGABRT"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "base_exception": ("class Odd(BaseException): pass\nraise Odd('why')", "Odd: why"),
    "no_message": ("class Odd(Exception):\n    __str__ = None\nraise Odd", "Odd"),
    "broken_text": ("raise ValueError('bad \\udcff name \\x1b[2J')", r"bad \udcff name \x1b[2J"),
    "long_text": ("raise ValueError('x' * 10**6)", "ValueError: xxx"),
    "writes_target": ("for s in data.sections:\n    s.target[...] = 0", "read-only"),
    "writes_expression": ("for s in data.sections:\n    s.expression[0, 0] = 1", "read-only"),
    "writes_counts": ("for s in data.sections:\n    s.counts.sort()", "read-only"),
    "writes_coordinates": ("for s in data.sections:\n    s.spatial[...] = 0", "read-only"),
    "makes_writeable": (
        "for s in data.sections:\n    s.target.flags.writeable = True",
        "cannot set WRITEABLE flag to True",
    ),
    "closes_descriptors": ("import os; os.closerange(3, 1000)", "before it gave an answer"),
    "garbage": (
        "import os\nfor number in range(3, 60):\n    try: os.write(number, b'x' * 64)\n"
        "    except OSError: pass\nos._exit(0)",
        "",
    ),
    "memory": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1, 1)); bytearray(10**9)",
        "MemoryError",
    ),
    "refuses": ("from bench.api import DataError\nraise DataError('not with me')", "not with me"),
}


@pytest.fixture
def compare(tiny, bench, tmp_path):
    """Runs methods on one fold; gives the answer and the scores by method."""

    def run(methods, name, *options):
        results = tmp_path / name
        more = ("--tracking", "none", "--folds", "0", "--results", results, *options)
        answer = bench("run", "--method", methods, *tiny.options, *more)
        return answer, scores_of(results)

    return run


def complaint_about(plugin, answer):
    """The line of an answer that says how a method failed."""
    told = (line for line in answer.stderr.splitlines() if line.startswith("bench: "))
    (complaint,) = (line for line in told if f"{plugin}, fold 0 failed: " in line)
    return complaint


@pytest.fixture(scope="module")
def alone(tiny, bench, tmp_path_factory):
    """Scores of the method that runs beside a plugin, without it."""
    results = tmp_path_factory.mktemp("alone")
    more = ("--tracking", "none", "--folds", "0", "--results", results)
    bench("run", "--method", "coordinates", *tiny.options, *more)
    return scores_of(results)


@pytest.fixture(scope="module")
def survivors(run_together):
    """All that leave something behind, one after another, and a method after them."""
    plugins = {f"leaves_{name}": {"fit": statement} for name, statement in SURVIVES.items()}
    return run_together(plugins, "coordinates", "--json")


@pytest.mark.parametrize("name", SURVIVES)
def test_what_a_method_leaves_behind_harms_no_result_of_its_own(name, survivors):
    answer, scores = survivors
    assert answer.status == 0, answer.stderr
    assert f"leaves_{name}" in {row["method"] for row in json.loads(answer.stdout)["rows"]}
    assert f"leaves_{name}/fold-0" in scores


def test_what_a_method_leaves_behind_stays_in_its_process(survivors, alone):
    answer, scores = survivors
    assert "HELLO" not in answer.stdout
    assert alone.items() <= scores.items()


@pytest.fixture(scope="module")
def failures(run_together):
    """All that fail in their own way, one after another, and a method after them."""
    plugins = {f"fails_{name}": {"fit": statement} for name, (statement, _) in FAILS.items()}
    return run_together(plugins, "coordinates")


@pytest.mark.parametrize("name", FAILS)
def test_whatever_a_method_does_is_told_in_a_line(name, failures):
    answer, _ = failures
    complaint = complaint_about(f"fails_{name}", answer)
    assert FAILS[name][1] in complaint
    assert complaint.isprintable()
    assert len(complaint) < 800


def test_whatever_a_method_does_costs_its_fold_alone(failures, alone):
    answer, scores = failures
    assert answer.status == 1, answer.stderr
    assert sum(line.startswith("bench: ") for line in answer.stderr.splitlines()) == len(FAILS)
    assert "Traceback" not in answer.stderr
    assert scores == alone


PREDICTIONS = {
    "complex": ("[p + 1j for p in predictions]", "complex64 values, not real numbers"),
    "masked": ("[np.ma.masked_less(p, 0) for p in predictions]", "masked values"),
    "objects": ("[p.astype(object) for p in predictions]", "object values"),
    "text": ("[p.astype(str) for p in predictions]", "not real numbers"),
    "one_array": ("np.concatenate(predictions)", "not a list of arrays"),
    "nothing": ("None", "NoneType, not a list of arrays"),
    "too_few": ("predictions[:-1]", "predictions for 2 slides"),
    "transposed": ("[p.T for p in predictions]", "predicted (40, 30), not (30, 40)"),
    "infinite": ("[p / 0 for p in predictions]", "is not finite"),
    "too_large": ("[p.astype(float) * 1e300 for p in predictions]", "is not finite"),
}


@pytest.fixture(scope="module")
def wrong_predictions(run_together):
    plugins = {
        f"predicts_{name}": {"predict": f"predictions = {value}"}
        for name, (value, _) in PREDICTIONS.items()
    }
    return run_together(plugins, "mean")


@pytest.mark.parametrize("name", PREDICTIONS)
def test_what_is_no_prediction_is_refused_in_a_line(name, wrong_predictions):
    answer, scores = wrong_predictions
    assert answer.status == 1
    assert PREDICTIONS[name][1] in complaint_about(f"predicts_{name}", answer)
    assert set(scores) == {"mean/fold-0"}


@pytest.mark.slow
def test_a_hang_costs_no_more_than_the_time_limit(plugins, compare, alone):
    write_plugin(plugins, "hangs", fit="import time; time.sleep(600)")
    answer, scores = compare("hangs,coordinates", "beside", "--time-limit", "5s")
    assert answer.status == 1
    assert "hangs, fold 0 failed: took longer than the limit of 5 s" in answer.stderr
    assert alone.items() <= scores.items()


def test_what_was_printed_is_in_the_record_of_a_failure(plugins, compare, tmp_path):
    fit = "import os; print('on the way'); os.write(2, b'at the end'); os.abort()"
    write_plugin(plugins, "prints_and_dies", fit=fit)
    answer, _ = compare("prints_and_dies", "results")
    (record,) = tmp_path.rglob("failure.txt")
    text = record.read_text()
    assert text.splitlines()[0] in answer.stderr
    assert "at the end" in text


@pytest.mark.parametrize("how", ["sys.exit(0)", "os._exit(0)", "raise KeyboardInterrupt"])
def test_a_module_that_ends_its_import_is_refused_in_a_line(how, plugins, bench, tiny, results):
    write_plugin(plugins, "ends_import", before=f"import os, sys\n{how}")
    options = (*tiny.options, "--tracking", "none", "--results", results)
    answer = bench("run", "--method", "ends_import,mean", *options)
    assert answer.status == 2
    assert answer.stderr.count("bench: method 'ends_import' cannot be imported: ") == 1
    assert "Traceback" not in answer.stderr
    assert bench("list", "methods").status == 0


# ------------------------------------------------------------------------------ the truth

WALKS = {
    "garbage_collector": """
import gc
found = [o for o in gc.get_objects() if type(o).__name__ in {"Truth", "FoldData", "AnnData"}]
""",
    "frames": """
import sys
frame, found = sys._getframe(), []
while frame is not None:
    found += [v for v in frame.f_locals.values() if type(v).__name__ in {"FoldData", "Job"}]
    found += [v for v in frame.f_locals.values() if hasattr(v, "truth")]
    frame = frame.f_back
""",
    "modules": """
import sys
found = [
    value
    for module in list(sys.modules.values()) if getattr(module, "__name__", "").startswith("bench")
    for value in list(vars(module).values())
    if type(value).__name__ in {"FoldData", "Truth", "FoldInputs", "Dataset"}
    or (isinstance(value, tuple) and any(hasattr(part, "truth") for part in value))
]
""",
}


def test_there_is_no_truth_in_the_process_of_a_method(run_together):
    refusal = "\nif found:\n    raise RuntimeError(f'found {found[:3]}')"
    walks = {
        f"walks_{way}": {"needs_image": True, "predict": walk + refusal}
        for way, walk in WALKS.items()
    }
    answer, scores = run_together(walks, "mean")
    assert answer.status == 0, answer.stderr
    assert set(scores) == {f"{walk}/fold-0" for walk in (*walks, "mean")}


def test_nothing_that_a_method_holds_names_the_folder_of_the_dataset(
    plugins, compare, tiny, monkeypatch
):
    monkeypatch.setenv("TEST_ROOT", str(tiny.root))
    walk = """
import gc, os, types
code = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
seen, waiting, texts = set(), [slides, context, self], 0
while waiting:
    value = waiting.pop()
    if id(value) in seen or isinstance(value, code):
        continue
    seen.add(id(value))
    if isinstance(value, (str, bytes)) or hasattr(value, "__fspath__"):
        texts += 1
        if os.environ["TEST_ROOT"] in (os.fsdecode(value)):
            raise RuntimeError("leads to " + os.fsdecode(value))
    else:
        waiting += gc.get_referents(value)
if texts < 4 or len(slides[0].patches()) != len(slides[0]):
    raise RuntimeError("the walk saw next to nothing")
"""
    write_plugin(plugins, "follows_slides", needs_image=True, predict=walk)
    answer, _ = compare("follows_slides", "results")
    assert answer.status == 0, answer.stderr


def test_a_score_above_the_ceiling_has_a_footnote(results, bench, tiny, plugins, monkeypatch):
    """A method that knows the truth, as none can here: its stored scores are raised."""
    import pandas as pd

    from bench.store import FoldFolder, read_run

    options = (*tiny.options, "--tracking", "none", "--folds", "0", "--results", results)
    bench("run", "--method", "mean", *options)
    (path,) = results.glob("runs/*/*/mean-*")
    fold = FoldFolder(path / "fold-0", read_run(path)["key"], 0)
    state = fold.state()
    scores = fold.read_table("scores.parquet")
    scores.loc[scores["score"].isin(["pcc_acg", "pcc_heg"]), "value"] = 1.0
    fold.write_table("scores.parquet", pd.DataFrame(scores))
    fold.finish(state.fit_key, state.score_key)
    table = bench("tables", "--dataset", "tiny", "--results", results)
    assert "mean: PCC(ACG) 1.0000 is above the noise ceiling" in table.stdout


def test_a_run_without_isolation_is_marked(plugins, compare, bench, tmp_path):
    plain = compare("coordinates", "isolated")[1]
    answer, scores = compare("coordinates", "inside", "--isolation", "none")
    assert scores == plain
    assert "coordinates: fitted with --isolation none" in answer.stdout


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one(tiny, bench, tmp_path):
    options = ("run", "--method", "coordinates,mean,knn", *tiny.options, "--preset", "tiny")
    stored = {}
    for jobs in (1, 2):
        results = tmp_path / f"jobs-{jobs}"
        more = ("--tracking", "none", "--results", results, "--jobs", jobs)
        answer = bench(*options, *more)
        assert answer.status == 0, answer.stderr
        stored[jobs] = scores_of(results)
    assert stored[1] == stored[2]
    assert len(stored[1]) == 9
