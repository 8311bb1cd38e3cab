"""Disk caches: folders of entries by key, for what can be made again.

Own code rather than diskcache or joblib.Memory: those store pickles, while an entry here is a
file of its own format, which several processes can map into memory read-only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import platformdirs
from filelock import FileLock

from bench.files import atomic_write, file_hash, write_json

Value = TypeVar("Value")

_KEY_LENGTH = 32
"""Characters of a hash that name an entry."""


def cache_folder() -> Path:
    """Folder of all caches: parsed sections, patches, features, generated data.

    ``SPOTBENCH_CACHE`` overrides the platform's cache folder.
    """
    chosen = os.environ.get("SPOTBENCH_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("spotbench"))


class Cache(Generic[Value]):
    """One folder of the cache: a file a key, all of one format.

    An entry is written under another name and renamed when it is complete: two processes that
    make the same entry at the same time both succeed, and a reader never sees half a file. A
    damaged entry counts as absent, so that it is made again.

    Parameters
    ----------
    name
        Folder inside :func:`cache_folder`, which is looked up at each call.
    suffix
        Ending of the files, such as ``.npy``.
    read
        Value of a file; any error means that the file is damaged.
    checked
        Keep the SHA-256 of each file beside it and compare before reading, for formats that
        cannot tell that they are damaged.
    """

    def __init__(
        self, name: str, suffix: str, read: Callable[[Path], Value], *, checked: bool = False
    ) -> None:
        self.name = name
        self.suffix = suffix
        self._read = read
        self._checked = checked

    def path(self, key: str, label: str = "") -> Path:
        """File of an entry, whether it exists or not.

        Parameters
        ----------
        key
            Hash of everything that the value depends on.
        label
            Put before the key, for people who look into the folder.
        """
        name = f"{label}-{key[:_KEY_LENGTH]}" if label else key[:_KEY_LENGTH]
        return cache_folder() / self.name / f"{name}{self.suffix}"

    def get(self, key: str, label: str = "") -> Value | None:
        """Value of an entry; None where it is absent or damaged."""
        path = self.path(key, label)
        try:
            if self._checked:
                expected = json.loads(_hash_file(path).read_text(encoding="utf-8"))
                if expected != {"sha256": file_hash(path)}:
                    return None
            return self._read(path)
        except Exception:  # noqa: BLE001 - a damaged file may fail in any way, also of memory
            return None

    @contextmanager
    def new_entry(self, key: str, label: str = "") -> Iterator[Path]:
        """Give a temporary path to write; it becomes the entry when the block ends without error.

        Raises
        ------
        OSError
            The cache folder cannot be written, or the disk is full.
        """
        path = self.path(key, label)
        with atomic_write(path) as temporary:
            yield temporary
        if self._checked:
            write_json(_hash_file(path), {"sha256": file_hash(path)})


class JsonCache(Cache[Value]):
    """A cache of small values as JSON.

    Parameters
    ----------
    name
        Folder inside :func:`cache_folder`.
    decode
        Value of the content of a file; any error means that the file is damaged.
    """

    def __init__(self, name: str, decode: Callable[[Any], Value]) -> None:
        super().__init__(
            name, ".json", lambda path: decode(json.loads(path.read_text(encoding="utf-8")))
        )

    def put(self, key: str, content: Any, label: str = "") -> None:
        """Store what `decode` turns into the value; NaN is refused because JSON has none."""
        write_json(self.path(key, label), content)


@contextmanager
def locked_folder(name: str, key: str) -> Iterator[Path]:
    """A folder of the cache that one process at a time works on; it is made where it is missing.

    Parameters
    ----------
    name
        Folder inside :func:`cache_folder`.
    key
        Folder in it.
    """
    folder = cache_folder() / name / key
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield folder


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".json")
