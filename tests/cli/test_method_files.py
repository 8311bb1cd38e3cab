"""Methods in a file of one's own, classes handed over, and plugins of one name."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import bench as api
from bench.api import Method, MethodConfig, atomic_write
from bench.errors import BenchError
from bench.execute.plan import make_plan
from bench.execute.request import Request
from bench.registry import find_methods, reference_to
from tests.cli.tiny_dataset import assert_nothing_half_written, assert_refused, write_plugin

METHOD = '''
import numpy as np
from pydantic import Field
from bench.api import Method, MethodConfig, atomic_write
{before}

class ShrunkConfig(MethodConfig):
    shrink: float = Field(default=1.0, ge=0, le=1)


class Shrunk(Method):
    """Shrunk training mean."""

    {name}
    Config = ShrunkConfig
    needs_image = False

    @classmethod
    def search_space(cls, trial):
        return {{"shrink": trial.suggest_float("shrink", 0.0, 1.0)}}

    def fit(self, data, context):
        targets = np.concatenate([section.target for section in data.sections])
        self.mean = self.config.shrink * targets.mean(axis=0)

    def predict(self, slides, context):
        return [(self.mean * (1 + s.array_xy[:, :1] / 99)).astype(np.float32) for s in slides]

    def save(self, folder):
        with atomic_write(folder / "mean.npy") as temporary:
            np.save(temporary, self.mean)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.mean = np.load(folder / "mean.npy")
        return method
'''


def write_method(path, *, name='name = "shrunk"', before="", after=""):
    path.write_text(METHOD.format(name=name, before=before) + after)
    return path


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """The working folder, to which paths are relative."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def run(bench, tiny, results):
    """Runs methods on one fold of the tiny dataset."""

    def run_tiny(methods, *arguments, command="run"):
        call = (command, "--method", methods, *tiny.where, *tiny.quick_protocol, "--folds", "0")
        return bench(*call, "--results", results, "--tracking", "none", *arguments)

    return run_tiny


def rows(answer):
    assert answer.status == 0, answer
    return {row["method"]: row for row in json.loads(answer.stdout)["rows"]}


def run_files(results, label):
    return [
        json.loads(path.read_text())
        for path in sorted(results.glob(f"runs/*/*/{label}-*/run.json"))
    ]


@pytest.fixture
def key_of(tiny, results):
    """Key of a run of a file."""

    def key(path="./mine.py"):
        dataset = {"dataset": str(tiny.card), "data_root": tiny.root}
        protocol = tiny.quick_protocol[1]
        request = Request((path,), **dataset, protocol=protocol, results=results, oracles=False)
        (planned,) = make_plan(request).runs
        return planned.folder.key

    return key


# ------------------------------------------------------------------------------------- files


def test_a_path_runs_beside_an_installed_method_and_is_kept(run, results, folder):
    write_method(folder / "mine.py")
    answer = run("./mine.py,mean", "--set", "shrunk.shrink=0.5", "--no-oracles", "--json")
    assert set(rows(answer)) == {"shrunk", "mean"}
    (facts,) = run_files(results, "shrunk")
    assert facts["config"] == {"shrink": 0.5}
    assert facts["method"] == "shrunk"
    assert str(folder) not in json.dumps(facts)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.py"]
    again = run(f"{folder}/mine.py", "--set", "shrink=0.5", "--no-oracles")
    assert again.status == 0
    assert "skipped" in again.stderr or "kept" in again.stderr
    assert_nothing_half_written(results)


def test_a_class_without_a_name_goes_by_the_file(run, folder):
    write_method(folder / "my_idea.py", name="")
    assert set(rows(run("my_idea.py", "--no-oracles", "--json"))) == {"my_idea"}


def test_the_name_of_an_installed_method_stays_with_that_method(run, folder):
    write_method(folder / "mine.py", name='name = "mean"')
    assert set(rows(run("./mine.py,mean", "--no-oracles", "--json"))) == {"mine:mean", "mean"}


def test_one_of_several_classes_is_chosen(run, folder):
    more = 'class Other(Shrunk):\n    name = "other"\n'
    write_method(folder / "mine.py", after=more)
    told = assert_refused(run("./mine.py"), "holds several methods, Other, Shrunk", "mine.py:Other")
    assert "Traceback" not in told
    both = "./mine.py:Other,./mine.py:Shrunk"
    assert set(rows(run(both, "--no-oracles", "--json"))) == {"other", "shrunk"}


def test_two_methods_of_one_name_are_refused(run, folder):
    write_method(folder / "mine.py")
    write_method(folder / "yours.py")
    assert_refused(run("./mine.py,./yours.py"), "two methods are called 'shrunk'")


def test_files_beside_it_are_imported_and_count(run, key_of, results, folder):
    write_method(folder / "mine.py", before="import beside_mine")
    beside = folder / "beside_mine.py"
    beside.write_text("FACTOR = 1\n")
    first = key_of()
    beside.write_text("FACTOR = 1  # the same\n")
    assert key_of() == first
    beside.write_text("FACTOR = 2\n")
    second = key_of()
    assert second != first
    (folder / "unrelated.py").write_text("x = 1\n")
    assert key_of() == second
    assert run("./mine.py", "--no-oracles").status == 0
    assert [facts["key"] for facts in run_files(results, "shrunk")] == [second]


def test_the_tree_of_the_file_counts_and_its_place_does_not(key_of, folder):
    write_method(folder / "mine.py")
    first = key_of()
    write_method(folder / "mine.py", before="# a comment")
    assert key_of() == first
    (folder / "there").mkdir()
    write_method(folder / "there" / "mine.py")
    assert key_of("there/mine.py") == first
    write_method(folder / "mine.py", before="x = 1")
    assert key_of() != first


def test_a_twin_and_isolation_none(run, folder):
    source = write_method(folder / "mine.py").read_text()
    source = source.replace("needs_image = False", "needs_image = True")
    source = source.replace("s.array_xy[:, :1]", "s.patches(8, 2).mean(axis=(1, 2, 3))[:, None]")
    (folder / "mine.py").write_text(source)
    answer = run("./mine.py,shuffled", "--no-oracles", "--json")
    assert set(rows(answer)) == {"shrunk", "shuffled:shrunk"}
    every = run("./mine.py,shuffled,shuffled:./mine.py", "--no-oracles", "--json")
    assert set(rows(every)) == {"shrunk", "shuffled:shrunk"}
    again = run("shuffled:./mine.py", "--no-oracles", "--json", "--isolation", "none", "--force")
    assert set(rows(again)) == {"shuffled:shrunk"}


def test_the_harness_does_not_import_it(run, folder):
    write_method(folder / "never_here.py", before="import sys\nsys.was_here_of_mine = True")
    assert run("./never_here.py", "--no-oracles").status == 0
    assert "never_here" not in sys.modules
    assert not hasattr(sys, "was_here_of_mine")


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_it_is_tuned(bench, tiny, results, folder, jobs):
    write_method(folder / "mine.py")
    answer = bench(
        *("tune", "--method", "./mine.py", *tiny.where, *tiny.quick_protocol, "--folds", "0"),
        *("--trials", "2", "--jobs", jobs, "--results", results, "--tracking", "none", "--json"),
    )
    assert answer.status == 0, answer
    assert {row["method"] for row in json.loads(answer.stdout)["rows"]} == {
        "shrunk",
        "tuned:shrunk",
    }
    (best,) = results.glob("tuning/**/best.yaml")
    again = bench("run", "--config", best, "--no-oracles", "--results", results, "--json")
    assert set(rows(again)) == {"shrunk"}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("Shrunk.control = True\n", "shrunk is a control and is not tuned"),
        ("Shrunk.search_space = Method.search_space\n", "shrunk offers no settings to search"),
        ("import os\nos._exit(0)\n", "cannot be imported: its process ended"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(run, folder, after, words):
    write_method(folder / "mine.py", after=after)
    assert_refused(run("./mine.py", command="tune"), words)


BROKEN = {
    "def (": ["cannot be imported: SyntaxError"],
    "import sys\nsys.exit(0)": ["cannot be imported: SystemExit: 0"],
    "import os\nos._exit(0)": ["cannot be imported: its process ended with exit status 0"],
    "raise RuntimeError('one\\ntwo')": ["cannot be imported: RuntimeError: one two"],
    "import no_such_library": ["ModuleNotFoundError", "no_such_library"],
    "x = 1": ["holds no method; define a class derived from Method"],
    "from bench.api import Method\nclass Half(Method):\n    pass": ["class Half lacks fit, load"],
    "from bench.api import Method as Other": ["holds no method"],
    "class Method:\n    name = 'x'": ["holds no method"],
}


@pytest.mark.parametrize("source", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_broken_file_is_one_line(bench, run, results, folder, source, command):
    (folder / "mine.py").write_text(source)
    answer = run("./mine.py") if command == "run" else bench("check", "./mine.py")
    assert_refused(answer, str(folder / "mine.py"), *BROKEN[source])
    assert_nothing_half_written(results)


@pytest.mark.parametrize("name", ["../up", "a b", "a:b", "", 3, "shuffled", "x" * 65])
def test_a_name_that_is_none_is_refused(run, folder, name):
    write_method(folder / "mine.py", name=f"name = {name!r}")
    assert_refused(run("./mine.py"), "is no name for a method", "class Shrunk")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./none.py", ["none.py: there is no such file"]),
        ("./none.py:Kind", ["none.py: there is no such file"]),
        ("./mine.py:Nothing", ["there is no method class 'Nothing'; it has Shrunk"]),
        ("./mine.py:np", ["there is no method class 'np'"]),
        ("./mine", ["method './mine': the file of a method ends in .py"]),
        ("./folder.py", ["folder.py: a folder; name the Python file"]),
        ("./" + "x" * 300 + ".py", ["cannot be read"]),
        ("class:Shrunk@0123456789abcdef", ["class of another process"]),
        ("shuffled:./mine.py", ["shuffled:shrunk", "does not use images"]),
    ],
)
def test_a_path_that_is_none_is_one_line(run, results, folder, path, words):
    write_method(folder / "mine.py")
    (folder / "folder.py").mkdir()
    assert_refused(run(path), *words)
    assert not list(results.glob("runs/*/*/*"))


def test_bytes_that_are_no_source_are_one_line(run, folder):
    (folder / "mine.py").write_bytes(bytes(range(256)))
    assert_refused(run("./mine.py"), "cannot be imported: SyntaxError")


def test_a_logged_model_never_imports_a_file(tmp_path):
    from bench.registry import method_class

    marker = tmp_path / "executed"
    path = tmp_path / "evil.py"
    path.write_text(f"open({str(marker)!r}, 'w').close()")
    with pytest.raises(BenchError, match=r"\.py"):
        method_class(str(path))
    assert not marker.exists()


# ------------------------------------------------------------------------- classes handed over


class Rising(Method):
    """Numbers that rise with the array column."""

    needs_image = False
    value = 2.0

    def fit(self, data, context):
        self.genes = len(data.panel)

    def predict(self, slides, context):
        columns = (self.value * s.array_xy[:, :1] for s in slides)
        return [np.repeat(column, self.genes, axis=1).astype(np.float32) for column in columns]

    def save(self, folder):
        with atomic_write(folder / "genes.npy") as temporary:
            np.save(temporary, self.genes)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.genes = int(np.load(folder / "genes.npy"))
        return method


@pytest.fixture
def run_class(tiny, results):
    """Runs classes on one fold of the tiny dataset; gives the table."""
    return lambda methods: api.run(
        methods,
        str(tiny.card),
        data_root=tiny.root,
        protocol=tiny.quick_protocol[1],
        folds=[0],
        oracles=False,
        results=results,
        tracking="none",
    )


def test_a_class_is_run_in_a_worker(run_class, results):
    class Local(Rising):
        name = "local"

    table = run_class([Local, Rising])
    assert set(table["method"]) == {"local", "Rising"}
    assert {path.name.rpartition("-")[0] for path in results.glob("runs/tiny/*/*")} == {
        "local",
        "Rising",
    }


NOTEBOOK = """
import sys
import numpy as np
import bench
from bench.api import Method, atomic_write

FACTOR = {factor}

def scaled(values):
    return FACTOR * values

class Cell(Method):
    needs_image = False

    def fit(self, data, context):
        targets = np.concatenate([s.target for s in data.sections])
        self.mean = scaled(targets.mean(axis=0))

    def predict(self, slides, context):
        return [np.tile(self.mean, (len(s), 1)).astype(np.float32) for s in slides]

    def save(self, folder):
        with atomic_write(folder / "mean.npy") as temporary:
            np.save(temporary, self.mean)

    @classmethod
    def load(cls, folder, config):
        method = cls(config)
        method.mean = np.load(folder / "mean.npy")
        return method

print(bench.run(Cell, "demo", folds=[0], oracles=False, results=sys.argv[1], tracking="none"))
"""


@pytest.mark.slow
def test_a_class_of_main_is_keyed_by_its_source_and_by_what_it_uses(results, folder):
    import subprocess

    def keys(factor):
        (folder / "notebook.py").write_text(NOTEBOOK.format(factor=factor))
        done = subprocess.run(
            [sys.executable, "notebook.py", results],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return {facts["key"] for facts in run_files(results, "Cell")}

    first = keys(1)
    assert keys(1) == first
    assert len(keys(2)) == 2


def test_a_class_without_source_is_run_too(run_class):
    space = {"__name__": "__main__", "Rising": Rising}
    exec("class Typed(Rising):\n    name = 'typed'\n", space)
    table = run_class(space["Typed"])
    assert list(table["method"]) == ["typed"]


@pytest.mark.slow
def test_a_class_is_tuned_by_two_workers(tiny, results):
    from bench.tune.request import TuneRequest
    from bench.tune.tuning import refit, tune

    class LocalConfig(MethodConfig):
        factor: float = 1.0

    class Local(Rising):
        name = "local"
        Config = LocalConfig

        @classmethod
        def search_space(cls, trial):
            return {"factor": trial.suggest_float("factor", 0.5, 2.0)}

    request = Request((reference_to(Local),), "demo", folds=(0,), results=results, oracles=False)
    found, failed = tune(TuneRequest(request, trials=2, jobs=2))
    assert failed == []
    outcomes = refit(TuneRequest(request, trials=2, jobs=2), found)
    assert [run.facts["label"] for o in outcomes for run in o.runs] == ["local", "tuned:local"]


def test_an_installed_class_is_known_by_its_name(plugins):
    from bench.methods.mean import Mean

    write_plugin(plugins, "installed_class")
    import plugin_installed_class

    assert reference_to(Mean) == "mean"
    assert reference_to(plugin_installed_class.Plugin) == "installed_class"


@pytest.mark.parametrize("method", [3, object, Method, len], ids=str)
def test_what_is_no_method_is_refused(method, results):
    with pytest.raises(BenchError) as refused:
        api.run([method], "demo", results=results, tracking="none")
    assert "\n" not in str(refused.value)


def test_a_class_that_cannot_be_pickled_is_refused():
    class Held(Rising):
        name = "held"
        lock = __import__("threading").Lock()

    with pytest.raises(BenchError, match=r"class .*Held cannot be sent to a worker process"):
        reference_to(Held)


def test_a_class_goes_to_no_other_machine(results):
    request = Request((reference_to(Rising),), "demo", results=results)
    with pytest.raises(BenchError, match="a class of this process cannot be sent to another"):
        make_plan(request, elsewhere=True)


def test_nodes_of_ray_without_a_shared_disk_do_not_see_a_file(folder, results):
    from bench.execute.executors.ray import RayExecutor

    write_method(folder / "mine.py")
    plan = make_plan(Request(("./mine.py",), "demo", results=results, oracles=False))
    RayExecutor("local").prepare(plan.jobs())
    with pytest.raises(BenchError, match="shrunk: with --no-shared-disk nodes do not see the file"):
        RayExecutor("local", shared_disk=False).prepare(plan.jobs())


def test_what_is_stored_names_no_installed_method(folder, results):
    write_method(folder / "mine.py", name='name = "mean"')
    (run,) = make_plan(Request(("mine.py",), "demo", results=results, oracles=False)).runs
    assert (run.facts["label"], run.facts["method"]) == ("mine:mean", "mine:mean")


def test_a_request_keeps_absolute_paths(folder):
    request = Request(("./mine.py", "shuffled:mine.py:Kind", "mean"), "demo")
    assert request.methods == (
        f"{folder}/mine.py",
        f"shuffled:{folder}/mine.py:Kind",
        "mean",
    )


# ------------------------------------------------------------------------ plugins of one name


def test_a_plugin_with_the_name_of_another_method_goes_by_its_package(bench, run, plugins):
    write_plugin(plugins, "mean", module="plugin_clash")
    write_plugin(plugins, "sound_beside")
    listed = {m["name"]: m["from"] for m in json.loads(bench("list", "--json").stdout)["methods"]}
    assert listed["mean"] == "built-in"
    assert listed["plugin_clash:mean"] == "plugin_clash"
    assert listed["sound_beside"] == "plugin_sound_beside"
    answer = run("mean,plugin_clash:mean", "--no-oracles", "--json")
    assert set(rows(answer)) == {"mean", "plugin_clash:mean"}
    checked = bench("check", "plugin_clash:mean", "--no-demo")
    assert checked.status == 0, checked


def test_two_plugins_of_one_name_are_told_apart(run, plugins):
    write_plugin(plugins, "same", module="plugin_one")
    write_plugin(plugins, "same", module="plugin_two")
    assert {"plugin_one:same", "plugin_two:same"} <= set(find_methods())
    assert_refused(run("same"), "several plugins provide", "plugin_one:same or plugin_two:same")
    assert set(rows(run("plugin_two:same", "--no-oracles", "--json"))) == {"plugin_two:same"}
