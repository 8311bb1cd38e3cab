"""Download of a dataset's folder from a repository on Hugging Face, which may be gated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from bench.data.card import DatasetCard, HubCard
from bench.data.lock import read_lock
from bench.errors import DataError
from bench.fetch.download import Watcher
from bench.fetch.hub_errors import hub_reason, is_gated
from bench.fetch.lock import entry_of, write_lock
from bench.fetch.outcome import Outcome
from bench.fetch.verify import chosen_sections, wanted_files
from bench.files import one_line

_STAGING = ".downloads/hub"


def fetch_from_hub(
    card: DatasetCard,
    root: Path,
    *,
    sections: Sequence[str] = (),
    force: bool = False,
    watcher: Watcher | None = None,
) -> Outcome:
    """Download the missing files of a dataset from its repository.

    The token is that of the environment (``HF_TOKEN``) or of ``hf auth login``.

    Parameters
    ----------
    card
        The dataset; it names a repository.
    root
        Its data folder, created if missing.
    sections
        Sections whose files are fetched, all where none is named; files of no section always are.
    force
        Download again files that differ from their hash.
    watcher
        Receives the progress.

    Raises
    ------
    DataError
        Access to the repository has not been granted, or it cannot be read.
    """
    assert card.hub is not None
    watcher = watcher or Watcher()
    outcome = Outcome()
    chosen_sections(card, sections)
    files = _files_of(card.hub)
    asked = wanted_files(card, sections)
    others = set(wanted_files(card)) - set(asked)
    todo = {path: size for path, size in files.items() if path not in others}
    for path in asked:
        if path not in files:
            outcome.failed[path] = f"{card.hub.page} has no such file in {card.hub.folder}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".spotbench-get.lock"):
        known = read_lock(root)
        for path in list(todo):
            place = root / path
            if not place.is_file():
                continue
            if path not in known or entry_of(place).sha256 == known[path].sha256:
                outcome.kept.append(path)
            elif force:
                continue
            else:
                outcome.failed[path] = "differs from the hash of its first download; --force"
            del todo[path]
        _check_room(root, todo)
        watcher.planned(len(todo), sum(todo.values()))
        for path, size in todo.items():
            watcher.started(path)
            fault = _fetch_one(card.hub, path, root)
            if fault is None:
                write_lock(root, {path: entry_of(root / path, f"{card.hub.page}/{path}")})
                outcome.fetched.append(path)
                watcher.received(size)
            else:
                outcome.failed[path] = fault
            watcher.ended(path, fault)
        shutil.rmtree(root / _STAGING, ignore_errors=True)
    return outcome


def _files_of(hub: HubCard) -> dict[str, int]:
    """Bytes of each file in the repository's folder, by its path in that folder."""
    import huggingface_hub

    try:
        tree = huggingface_hub.HfApi().list_repo_tree(
            hub.repository,
            hub.folder,
            recursive=True,
            revision=hub.revision,
            repo_type="dataset",
        )
        sizes = {str(item.path): _size(item) for item in tree if hasattr(item, "size")}
    except Exception as error:  # errors of its HTTP library too, which differs between versions
        raise _fault(hub, error) from error
    files = {}
    for path, size in sizes.items():
        inside = PurePosixPath(path)
        if not inside.is_relative_to(hub.folder) or ".." in inside.parts:
            raise DataError(f"{hub.page}: lists '{path[:80]}', which is not in {hub.folder}")
        own = inside.relative_to(hub.folder).as_posix()
        if not any(PurePosixPath(own).is_relative_to(folder) for folder in hub.leave_out):
            files[own] = size
    if not files:
        raise DataError(f"{hub.page}: holds no file in {hub.folder}")
    return files


def _size(item: Any) -> int:
    return int(item.size)


def _fetch_one(hub: HubCard, path: str, root: Path) -> str | None:
    """Download one file; the reason if that failed.

    Raises
    ------
    DataError
        Access has not been granted, so that no other file can be fetched either.
    """
    import huggingface_hub

    target = root / path
    if not target.parent.resolve().is_relative_to(root.resolve()):
        return "a link leads out of the data folder; nothing is fetched there"
    try:
        fetched = huggingface_hub.hf_hub_download(
            hub.repository,
            f"{hub.folder}/{path}",
            revision=hub.revision,
            repo_type="dataset",
            local_dir=root / _STAGING,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, target)
    except Exception as error:  # as above
        if is_gated(error):
            raise _fault(hub, error) from error
        return one_line(error, 200)
    return None


def _fault(hub: HubCard, error: Exception) -> DataError:
    text = f"{hub.repository}: {hub_reason(error, hub.page, hub.revision)}"
    if is_gated(error):
        text += "; or name a folder that has the files with --from"
    return DataError(text)


def _check_room(root: Path, todo: dict[str, int]) -> None:
    needed, free = sum(todo.values()), shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"{root}: {needed:,} bytes are to be fetched, but the disk has {free:,} free; make"
            " room, or fetch some --sections"
        )
