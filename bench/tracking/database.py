"""The SQLite database of a results folder: atomic creation, and update of moved locations.

MLflow makes and upgrades its tables in place, in dozens of steps; a process that is ended in the
middle leaves a database that no later one can open. Here both are done on a file of another name,
which takes the place of the database when it is complete. MLflow also keeps absolute locations of
artifacts, which are rewritten once the results folder lies somewhere else.
"""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from filelock import SoftFileLease

from bench.claims import DURATION, check_held, claim
from bench.errors import StoreError
from bench.files import atomic_write, one_line
from bench.tracking.importing import import_mlflow

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"

_WAIT = DURATION + 30
_BUSY_SECONDS = 30.0
_SIDECARS = ("-journal", "-wal", "-shm")
_HEX = "[0-9a-f]" * 32

# Columns in which MLflow keeps locations of artifacts.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
    ("workspaces", "default_artifact_root"),
    ("workspaces", "trace_archival_location"),
)

# Rows made by a user or an upload; MLflow itself makes the default experiment.
_CONTENT = (
    "SELECT 1 FROM runs LIMIT 1",
    "SELECT 1 FROM experiments WHERE experiment_id <> 0 LIMIT 1",
    "SELECT 1 FROM registered_models LIMIT 1",
)

# Errors of the machine, not of the content of the file.
_OF_THE_MACHINE = (
    *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY"),
    *("SQLITE_CANTOPEN", "SQLITE_NOMEM", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_INTERRUPT"),
)


class _UnusableError(Exception):
    """The database can neither be used nor upgraded."""


@dataclass(frozen=True)
class _Schema:
    """Content of a database file.

    Attributes
    ----------
    version
        Revision of MLflow's tables, None without one.
    content
        Whether it contains data that would be lost with it.
    """

    version: str | None
    content: bool


def database_path(results: Path) -> Path:
    """Path of the database of a results folder."""
    return (results / DATABASE).resolve()


def is_ready(path: Path) -> bool:
    """Whether a database is complete, and made or checked by the installed MLflow.

    Costs about a millisecond and does not import MLflow.

    Raises
    ------
    StoreError
        It is locked by another program, or cannot be read.
    """
    if _size(path) == 0:
        return False
    try:
        with closing(_connect(path)) as connection:
            (stamp,) = connection.execute("PRAGMA user_version").fetchone()
            return bool(stamp == _stamp() and _revision(connection))
    except sqlite3.DatabaseError as error:
        if _is_of_the_machine(error):
            raise _not_readable(path, error) from error
        return False


def make_ready(path: Path, artifacts: Path) -> str | None:
    """Make a database, or upgrade or replace one that the installed MLflow cannot use.

    One process does so and others wait for it. If killed at any moment, it leaves either the file
    from before or the complete database.

    Parameters
    ----------
    path
        The database.
    artifacts
        Folder of the artifacts of new experiments.

    Returns
    -------
    str
        Message on a database that could not be used, None without such a message.

    Raises
    ------
    StoreError
        It cannot be read or written, or was made by a later MLflow.
    """
    if is_ready(path):
        return None
    if _size(path) > 0 and not os.access(path.parent, os.W_OK):
        return None  # MLflow may be able to read it
    # Imported before the claim, so that other processes need not wait for it.
    import_mlflow()
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    with claim(path.with_name(f".{path.name}.claim"), _WAIT) as lease:
        if is_ready(path):
            return None
        _remove_leftovers(path)
        schema = _inspect(path)
        if schema.version is not None and schema.version == _latest_revision():
            _write_stamp(path)
            return None
        if not schema.content:
            _make(path, artifacts, lease)
            return None
        try:
            _upgrade(path, schema, lease)
        except _UnusableError as error:
            kept = path.with_name(
                f"{path.stem}-broken-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}"
            )
            _make(path, artifacts, lease, kept)
            return f"{path}: could not be used ({error}); kept as {kept.name}, and a new one made"
        return None


def follow_folder(path: Path, artifacts: Path) -> int:
    """Rewrite locations of artifacts under the former path of the results folder.

    Only experiments in a folder ``mlartifacts`` under their own name or number are rewritten.
    Does nothing if the folder has not moved.

    Parameters
    ----------
    path
        Database in a usable state.
    artifacts
        Current folder of its artifacts.

    Returns
    -------
    int
        Number of locations rewritten.

    Raises
    ------
    StoreError
        The database is locked by another program, or cannot be read or written.
    """
    root = artifacts.resolve().as_uri()
    if not os.access(path, os.W_OK):
        return 0
    try:
        with closing(_connect(path)) as connection:
            if not _former_roots(connection, root):
                return 0
            with _transaction(connection):
                moved = 0
                for former in _former_roots(connection, root):
                    moved += _rewrite(connection, former, root)
                    if former.startswith("file:"):
                        plain = url2pathname(urlsplit(former).path)
                        moved += _rewrite(connection, plain, str(artifacts.resolve()))
                return moved
    except sqlite3.DatabaseError as error:
        raise _not_readable(path, error) from error


def has_uploads(path: Path, tag: str, values: Iterable[str]) -> bool:
    """Whether a database has MLflow runs, deleted or not, with all these values of a tag.

    Costs about a millisecond and does not import MLflow.
    """
    wanted = set(values)
    if not is_ready(path):
        return False
    with closing(_connect(path)) as connection:
        rows = connection.execute("SELECT value FROM tags WHERE key = ?", (tag,))
        return wanted <= {value for (value,) in rows}


# ------------------------------------------------------------------------------ making


def _make(path: Path, artifacts: Path, lease: SoftFileLease, kept: Path | None = None) -> None:
    """Create an empty database, renamed to `path` once it is complete.

    Parameters
    ----------
    path, artifacts
        As in :func:`make_ready`.
    lease
        Claim of this process.
    kept
        New name of the existing file, None to replace it.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _replacement(path, lease, kept) as made:
        store = SqlAlchemyStore(f"sqlite:///{made}", artifacts.resolve().as_uri())
        store.engine.dispose()


def _upgrade(path: Path, schema: _Schema, lease: SoftFileLease) -> None:
    """Upgrade a copy of a database to the tables of the installed MLflow, and put it in place."""
    from alembic.util import CommandError
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine
    from sqlalchemy.exc import DBAPIError

    with closing(_connect(path)) as former, _replacement(path, lease) as made:
        try:
            # The lock keeps other programs from writing rows that the copy would lack.
            former.execute("BEGIN IMMEDIATE")
            with closing(_connect(path)) as reader, closing(sqlite3.connect(made)) as copy:
                reader.backup(copy)
        except sqlite3.DatabaseError as error:
            if _is_of_the_machine(error):
                raise
            raise _UnusableError(one_line(error)) from error
        engine = create_sqlalchemy_engine(f"sqlite:///{made}")
        try:
            _upgrade_db(engine)
        except CommandError as error:
            raise StoreError(
                f"{path}: was made by another version of MLflow ({one_line(error)}); install that"
                " version, or move the file away and call again"
            ) from error
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, DBAPIError) and _is_of_the_machine(error.orig):
                raise
            raise _UnusableError(one_line(error)) from error
        finally:
            engine.dispose()


@contextmanager
def _replacement(path: Path, lease: SoftFileLease, kept: Path | None = None) -> Iterator[Path]:
    """New file that replaces a database at the end of the block."""
    with atomic_write(path) as made:
        try:
            with _without_waiting_for_the_disk():
                yield made
            _write_stamp(made)
        finally:
            _remove_sidecars(made)
        check_held(lease)
        if kept is not None:
            path.rename(kept)
        # A journal of the former file would be applied to the new one.
        _remove_sidecars(path)


@contextmanager
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Disable waiting for the disk in SQLAlchemy connections opened in the block.

    Dozens of small transactions make a database; it is written to disk once, when it is complete.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", configure)
    try:
        yield
    finally:
        event.remove(Engine, "connect", configure)


def _remove_leftovers(path: Path) -> None:
    """Remove files of a process that was killed while it created a database."""
    for leftover in path.parent.glob(f".{path.stem}-{_HEX}{path.suffix}*"):
        leftover.unlink(missing_ok=True)


def _remove_sidecars(path: Path) -> None:
    for name in _SIDECARS:
        Path(f"{path}{name}").unlink(missing_ok=True)


# ------------------------------------------------------------------------------ reading


def _connect(path: Path) -> sqlite3.Connection:
    # Not read-only: the journal of a killed process has to be rolled back.
    address = f"{path.as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@cache
def _stamp() -> int:
    """Number of the installed MLflow, kept in a database that it can use as it is."""
    return zlib.crc32(version("mlflow").encode()) & 0x7FFFFFFF


def _write_stamp(path: Path) -> None:
    with closing(_connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {_stamp()}")


def _revision(connection: sqlite3.Connection) -> str | None:
    rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(rows[0][0]) if len(rows) == 1 else None


def _latest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _inspect(path: Path) -> _Schema:
    if _size(path) == 0:
        return _Schema(None, content=False)
    try:
        # Waits for a program that is creating it.
        with closing(_connect(path)) as connection, _transaction(connection):
            tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
            names = {name for (name,) in connection.execute(tables)}
            revision = _revision(connection) if "alembic_version" in names else None
            if not {"runs", "experiments"} <= names:
                revision = None
            content = any(_any_row(connection, query) for query in _CONTENT)
            return _Schema(revision, content)
    except sqlite3.DatabaseError as error:
        if _is_of_the_machine(error):
            raise _not_readable(path, error) from error
        # A file of unknown content must not be deleted.
        return _Schema(None, content=True)


def _any_row(connection: sqlite3.Connection, query: str) -> bool:
    try:
        return connection.execute(query).fetchone() is not None
    except sqlite3.OperationalError as error:
        if _is_of_the_machine(error):
            raise
        return False  # no such table


def _is_of_the_machine(error: BaseException | None) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith(_OF_THE_MACHINE)


def _not_readable(path: Path, error: BaseException) -> StoreError:
    return StoreError(f"{path}: cannot be read or written ({one_line(error)})")


# ------------------------------------------------------------------------------ locations


def _former_roots(connection: sqlite3.Connection, root: str) -> set[str]:
    """Former roots of our experiments' locations, other than the current one."""
    rows = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments")
    roots = set()
    for number, name, location in rows:
        former, _, last = str(location or "").rpartition("/")
        if former.endswith(f"/{ARTIFACTS}") and unquote(last) in {str(number), name}:
            roots.add(former)
    return roots - {root}


def _rewrite(connection: sqlite3.Connection, former: str, root: str) -> int:
    changed = 0
    for table, column in _LOCATIONS:
        columns = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        if (column,) in columns.fetchall():
            changed += connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608
                f" WHERE substr({column} || '/', 1, ?) = ?",
                (root, len(former) + 1, len(former) + 1, f"{former}/"),
            ).rowcount
    return changed
