"""The database of a results folder: complete or not there, and never thrown away."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from bench.errors import StoreError
from bench.tracking import database
from bench.tracking.database import follow_folder, has_uploads, is_ready, make_ready
from tests.tracked import empty_database  # noqa: F401 - a fixture

HEAD = ScriptDirectory.from_config(_get_alembic_config("")).get_current_head()

READY = """
import sys
from pathlib import Path
from bench.tracking.database import follow_folder, has_uploads, is_ready

path = Path(sys.argv[1])
assert is_ready(path)
assert not has_uploads(path, "spotbench.key", ["none"])
assert follow_folder(path, path.with_name("mlartifacts")) == 0
assert not {"mlflow", "sqlalchemy", "alembic"} & set(sys.modules)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "mlflow.db"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A database that was made, in the folder for which it was."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    assert make(path) is None
    return path


def make(path):
    return make_ready(path, path.with_name("mlartifacts"))


def names(path):
    return sorted(item.name for item in path.parent.iterdir())


def ask(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def write(path, *statements):
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def make_older(path, revision, *, initial=True):
    """A database as an earlier MLflow has left it, with one run."""
    path.parent.mkdir(exist_ok=True)
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    if initial:
        InitialBase.metadata.create_all(engine)
    if revision:
        config = _get_alembic_config(f"sqlite:///{path}")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    engine.dispose()


INSERT = (
    "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (1, 'mine', 'active')",
    "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, source_type,"
    " user_id, start_time) VALUES ('abc', 'a run', 'FINISHED', 'active', 1, 'LOCAL', 'me', 1)",
)


def assert_usable(path, runs=0):
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiments = {item.experiment_id: item for item in client.search_experiments()}
    assert experiments["0"].artifact_location == path.with_name("mlartifacts").as_uri() + "/0"
    assert len(client.search_runs(list(experiments))) == runs
    assert ask(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert is_ready(path)


# ------------------------------------------------------------------------------ making


def test_a_new_database_is_complete_and_leaves_nothing_beside_it(made):
    assert names(made) == ["mlflow.db"]
    assert_usable(made)


def test_a_database_that_is_ready_is_seen_without_mlflow(made):
    before = made.read_bytes()
    done = subprocess.run([sys.executable, "-c", READY, str(made)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert make(made) is None
    assert made.read_bytes() == before


def test_a_database_that_mlflow_made_is_taken_as_it_is(path, empty_database):  # noqa: F811
    path.parent.mkdir()
    shutil.copy(empty_database, path)
    write(path, *INSERT)
    assert not is_ready(path)
    assert make(path) is None
    assert ask(path, "SELECT run_uuid FROM runs") == [("abc",)]
    assert is_ready(path)
    assert names(path) == ["mlflow.db"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk is full")])
def test_a_making_that_is_broken_off_leaves_nothing(path, monkeypatch, error):
    from mlflow.store.tracking import sqlalchemy_store

    class Broken(sqlalchemy_store.SqlAlchemyStore):
        def _initialize_store_state(self):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy_store, "SqlAlchemyStore", Broken)
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            make(path)
    assert names(path) == []
    assert make(path) is None
    assert names(path) == ["mlflow.db"]


def test_what_a_killed_maker_left_is_removed(path):
    path.parent.mkdir()
    leftover = path.with_name(f".mlflow-{32 * 'a'}.db")
    for name in (leftover, leftover.with_name(f"{leftover.name}-journal")):
        name.write_bytes(b"half")
    path.with_name(".mlflow.db.claim").write_text(
        "filelock/2\npid=999999999\nhost=nowhere\nmode=lease\ntoken=ab\nduration=nonsense\n"
    )
    assert make(path) is None
    assert names(path) == ["mlflow.db"]


# ------------------------------------------------------------------------------ half-made


def test_an_empty_file_is_replaced(path):
    path.parent.mkdir()
    path.touch()
    path.with_name("mlflow.db-journal").write_bytes(b"of a former database")
    assert not is_ready(path)
    assert make(path) is None
    assert names(path) == ["mlflow.db"]
    assert_usable(path)


@pytest.mark.parametrize("revision", ["", "451aebb31d03"])
def test_a_half_made_database_is_replaced(path, revision):
    make_older(path, revision)
    assert not is_ready(path)
    assert make(path) is None
    assert names(path) == ["mlflow.db"]
    assert_usable(path)


def test_a_version_without_tables_is_replaced(path):
    write(
        path,
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        f"INSERT INTO alembic_version VALUES ('{HEAD}')",
    )
    assert make(path) is None
    assert names(path) == ["mlflow.db"]
    assert_usable(path)


def kept_file(path):
    (kept,) = [name for name in names(path) if name != "mlflow.db"]
    assert kept.startswith("mlflow-broken-")
    return path.with_name(kept)


def test_a_half_upgraded_database_with_runs_is_kept_under_another_name(path):
    make_older(path, "451aebb31d03")
    # A column that the next upgrade adds: it was ended in the middle.
    write(path, *INSERT, "ALTER TABLE experiments ADD COLUMN creation_time BIGINT")
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(metrics)")]
    if "step" not in columns:
        write(path, "ALTER TABLE metrics ADD COLUMN step BIGINT")
    told = make(path)
    kept = kept_file(path)
    assert told.startswith(f"{path}: could not be used (")
    assert f"kept as {kept.name}, and a new one made" in told
    assert "\n" not in told
    assert ask(kept, "SELECT run_uuid FROM runs") == [("abc",)]
    assert_usable(path)


def test_a_file_that_is_no_database_is_kept_under_another_name(path):
    path.parent.mkdir()
    path.write_text("a letter to my grandmother" * 100)
    assert "file is not a database" in make(path)
    assert kept_file(path).read_text().startswith("a letter")
    assert_usable(path)


# ------------------------------------------------------------------------------ other versions


@pytest.mark.parametrize("back", [1, 40])
def test_an_older_database_is_upgraded(path, back):
    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    revisions = [script.revision for script in scripts.walk_revisions()]
    make_older(path, revisions[back])
    write(path, *INSERT)
    assert make(path) is None
    assert names(path) == ["mlflow.db"]
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    (run,) = client.search_runs(["1"])
    assert run.info.run_id == "abc"
    assert is_ready(path)


@pytest.mark.parametrize("error", [OSError("disk is full"), KeyboardInterrupt])
def test_an_upgrade_that_is_broken_off_changes_nothing(path, monkeypatch, error):
    make_older(path, "451aebb31d03")
    write(path, *INSERT)
    before = path.read_bytes()

    def broken(engine):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.db.utils._upgrade_db", broken)
        with pytest.raises((OSError, KeyboardInterrupt)):
            make(path)
    assert names(path) == ["mlflow.db"]
    assert path.read_bytes() == before


def test_a_database_of_a_later_mlflow_is_left_alone(path, made):
    path.parent.mkdir()
    shutil.copy(made, path)
    write(path, *INSERT, "UPDATE alembic_version SET version_num = 'fffffffffff0'")
    write(path, "PRAGMA user_version = 0")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="was made by another version of MLflow"):
        make(path)
    assert names(path) == ["mlflow.db"]
    assert path.read_bytes() == before


def test_a_database_that_is_locked_is_not_thrown_away(path, made, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    path.parent.mkdir()
    shutil.copy(made, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for refused in (lambda: is_ready(path), lambda: make(path)):
            with pytest.raises(StoreError, match=r"cannot be read or written \(database is locked"):
                refused()
    assert make(path) is None


# ------------------------------------------------------------------------------ locations


def test_locations_under_the_former_place_are_rewritten_and_no_others(path, made):
    path.parent.mkdir()
    shutil.copy(made, path)
    here = path.with_name("mlartifacts")
    former = made.with_name("mlartifacts").as_uri()
    elsewhere = "file:///elsewhere/results-of-mine"
    write(
        path,
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage,"
        f" workspace) VALUES (1, 'a b', '{former}/a%20b', 'active', 'default'),"
        f" (2, 'other', '{elsewhere}/other', 'active', 'default'),"
        " (3, 'bucket', 's3://bucket/mlartifacts/x', 'active', 'default')",
        "INSERT INTO runs (run_uuid, experiment_id, artifact_uri, status, source_type,"
        f" lifecycle_stage) VALUES ('a', 1, '{former}/a%20b/a/artifacts', 'FINISHED', 'LOCAL',"
        f" 'active'), ('b', 2, '{elsewhere}/other/b/artifacts', 'FINISHED', 'LOCAL', 'active'),"
        f" ('c', 1, '{former}-old/c/artifacts', 'FINISHED', 'LOCAL', 'active')",
    )
    assert follow_folder(path, here) == 3
    assert follow_folder(path, here) == 0
    locations = "SELECT artifact_location FROM experiments ORDER BY experiment_id"
    assert ask(path, locations) == [
        (f"{here.as_uri()}/0",),
        (f"{here.as_uri()}/a%20b",),
        (f"{elsewhere}/other",),
        ("s3://bucket/mlartifacts/x",),
    ]
    assert ask(path, "SELECT artifact_uri FROM runs ORDER BY run_uuid") == [
        (f"{here.as_uri()}/a%20b/a/artifacts",),
        (f"{elsewhere}/other/b/artifacts",),
        (f"{former}-old/c/artifacts",),
    ]


def test_uploads_are_found_by_their_tag(path, made):
    path.parent.mkdir()
    assert not has_uploads(path, "k", [])
    shutil.copy(made, path)
    write(
        path,
        *INSERT,
        "INSERT INTO tags (run_uuid, key, value) VALUES ('abc', 'k', 'v'), ('abc', 'l', 'w')",
    )
    assert has_uploads(path, "k", ["v"])
    assert not has_uploads(path, "k", ["v", "w"])
    assert not has_uploads(path, "k", ["w"])
