"""Writing files so that a final name always means a complete file, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from bench.errors import DataError

_BLOCK = 1 << 20

# libyaml's loader is ten times faster than the pure Python one on a card of hundreds of files.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_YAML_DEPTH = 50


def cache_folder() -> Path:
    """Folder for what can be made again: parsed sections, patches, generated data.

    ``SPOTBENCH_CACHE`` overrides the platform's cache folder.
    """
    chosen = os.environ.get("SPOTBENCH_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("spotbench"))


def data_home() -> Path:
    """Folder of all data folders: ``SPOTBENCH_DATA``, or the platform's data folder."""
    chosen = os.environ.get("SPOTBENCH_DATA")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("spotbench"))


def cards_folder() -> Path:
    """Folder of the cards that ``bench data add`` writes."""
    return data_home() / "cards"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` once complete.

    The file is flushed to disk before the rename and the folder after it, so that a crash at
    any moment leaves either the old file or the new one. On an error nothing is left behind.

    Parameters
    ----------
    path
        Final name. Missing parent folders are made.

    Yields
    ------
    Path
        Temporary file name with the suffix of `path`; the caller writes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused because JSON has none."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def canonical_hash(value: Any) -> str:
    """SHA-256 of `value` as canonical JSON: the same content gives the same hash everywhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's bytes.

    Parameters
    ----------
    path
        File to read.
    algorithm
        A name that :mod:`hashlib` knows, or ``git-blob`` for the SHA-1 by which git names a file.
    """
    if algorithm == "git-blob":
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_yaml(path: Path) -> Any:
    """Content of a YAML file of plain values.

    Raises
    ------
    DataError
        Missing, not text, not YAML, or nested too deeply.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text)
        return yaml.load(text, Loader=_YAML)  # noqa: S506 - a safe loader
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable YAML file ({one_line(error)})") from error


def _check_depth(text: str) -> None:
    # libyaml's composer recurses in C: what is nested too deeply would crash the interpreter.
    depth = 0
    for event in yaml.parse(text, Loader=_YAML):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_YAML_DEPTH:
            raise ValueError(f"nested more than {_MAX_YAML_DEPTH} levels deep")


def one_line(message: object, limit: int = 200) -> str:
    """A message of any library as one line of at most `limit` characters."""
    return " ".join(str(message).split())[:limit]


def source_hash(*roots: Path) -> str:
    """SHA-256 over the Python sources in `roots` (files, or folders with all below them)."""
    digest = hashlib.sha256()
    for root in roots:
        sources = [root] if root.is_file() else sorted(root.rglob("*.py"))
        for source in sources:
            name = source.name if root.is_file() else source.relative_to(root).as_posix()
            digest.update(f"{name}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()
