"""Checks of saving and loading."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickletools
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.contract.outcome import ContractError
from bench.contract.subject import Subject, difference

_COMPRESSED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"]\x00\x00": lzma.decompress,
    **{bytes([0x78, level]): zlib.decompress for level in (0x01, 0x5E, 0x9C, 0xDA)},
}
_DEPTH = 3
"""Maximum depth of nested archives that are opened."""


def comes_back_from_its_folder(subject: Subject) -> None:
    """What it saves is loaded as a new object that predicts the same bits."""
    fitted = subject.fitted
    folder = _fresh(subject, "written-here")
    with subject.surroundings():
        fitted.method.save(folder)
        moved = folder.rename(folder.with_name("read-there"))
    # Another fold is fitted in between: what is kept in the class or the module is of that one.
    data = subject.data()
    train = tuple(replace(s, target=s.target + 1, expression=s.expression + 1) for s in data.train)
    subject.fit(replace(data, train=train))
    with subject.surroundings():
        loaded = subject.kind.load(moved, fitted.method.config)
    if loaded is fitted.method:
        raise ContractError("load gave the very object that was saved")
    if not isinstance(loaded, subject.kind):
        raise ContractError(f"load gave {type(loaded).__name__}, not {subject.kind.__name__}")
    differs = difference(fitted.predictions, subject.predict(loaded))
    if differs:
        raise ContractError(f"predictions differ {differs} after save and load")


def saves_plain_files_in_its_folder(subject: Subject) -> None:
    """It saves no pickle, and nothing outside of its folder."""
    from bench.store import PICKLES  # imports pandas

    method = subject.fitted.method
    folder = _fresh(subject, "plain")
    around = folder.parents[1]
    elsewhere = around / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    usual, tempfile.tempdir = tempfile.tempdir, str(elsewhere)
    try:
        with subject.surroundings(), chdir(elsewhere), _recorded_writes() as written:
            method.save(folder)
    finally:
        tempfile.tempdir = usual
    # Writes of Python code are recorded for all paths; those of libraries only in nearby folders.
    left = [path for path in around.rglob("*") if path.is_file()]
    for path in [Path(name) for name in written] + left:
        if path.is_file() and folder not in path.parents and "__pycache__" not in path.parts:
            raise ContractError(f"it wrote {path.name} outside of the folder it was given")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ContractError(f"{path.name} is a link, which leads nowhere on another machine")
        if path.is_file():
            fault = "is a pickle by its name" if path.suffix.lower() in PICKLES else None
            fault = fault or pickle_in(path.read_bytes())
            if fault:
                raise ContractError(f"{path.name} {fault}; whoever loads one runs its code")


def _fresh(subject: Subject, name: str) -> Path:
    folder = subject.folder / f"saved-{name}" / "model" / name
    folder.mkdir(parents=True)
    return folder


def pickle_in(content: bytes, depth: int = _DEPTH) -> str | None:
    """How the content of a file holds a pickle, None if it holds none; nothing is executed."""
    if _is_pickle(content):
        return "is a pickle"
    if content.startswith(b"\x93NUMPY") and _is_object_array(content):
        return "holds an array of Python objects, which NumPy pickles"
    if depth == 0:
        return None
    if content.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if archive.getinfo(name).flag_bits & 1:
                    return f"holds {name}, which is encrypted"
                fault = pickle_in(archive.read(name), depth - 1)
                if fault:
                    return f"holds {name}, which {fault}"
    for magic, unpack in _COMPRESSED.items():
        if content.startswith(magic):
            try:
                unpacked = unpack(content)
            except (OSError, EOFError, zlib.error, lzma.LZMAError):
                continue  # it only begins like an archive
            fault = pickle_in(unpacked, depth - 1)
            return f"is compressed and {fault}" if fault else None
    return None


def _is_pickle(content: bytes) -> bool:
    if not content:
        return False
    if content[0] == 0x80:  # the protocol from 2 on; other binary files may begin so by chance
        names: list[str] = []
        try:
            for opcode, _, _ in pickletools.genops(content):
                names.append(opcode.name)
                if len(names) > 3:
                    return True
        except ValueError:
            return False
        return names[-1] == "STOP"
    # Protocols 0 and 1 have no mark at the start: it is one if all of it is a valid program.
    if not content.endswith(b"."):
        return False
    try:
        last = 0
        for _, _, place in pickletools.genops(content):
            last = place or 0
        pickletools.dis(content, out=io.StringIO())
    except (ValueError, IndexError, KeyError):
        return False
    return last == len(content) - 1


def _is_object_array(content: bytes) -> bool:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        return read(stream)[2].hasobject
    except (ValueError, KeyError):
        return False


_written: list[str] | None = None
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is None:
        return
    if event == "open":
        name, _, flags = arguments
        if isinstance(name, str | bytes) and flags & (os.O_WRONLY | os.O_RDWR):
            _written.append(os.path.abspath(os.fsdecode(name)))
    elif event in {"os.rename", "os.link", "os.symlink"}:
        _written.append(os.path.abspath(os.fsdecode(arguments[1])))


@contextmanager
def _recorded_writes() -> Iterator[list[str]]:
    """Absolute names of what Python code opens for writing, or renames to, inside the block."""
    global _hooked, _written
    if not _hooked:
        sys.addaudithook(_hook)  # for good: Python has no way to take one back
        _hooked = True
    written: list[str] = []
    _written = written
    try:
        yield written
    finally:
        _written = None
