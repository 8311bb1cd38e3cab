"""Claims: at most one process works on a thing in the results folder.

A claim is a small file made with ``O_EXCL``, which also holds on network file systems without
``flock``. It names the host and process of its holder and is touched while that one works. The
claim of a process that has ended is free at once for processes of the same host, and for those of
other hosts after :data:`DURATION` seconds without a sign of life.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from bench.errors import StoreError

DURATION = 60.0
"""Seconds without a sign of life after which a claim of another host is free.

A third of it passes between two signs. All processes must agree on it.
"""

_POLL = 0.1
_TAKEN_FROM = "?"  # filelock writes the PID namespace of a container after it

# A claim of another host is free once it did not change while it was watched for DURATION, so
# that clocks of hosts need not agree. Callers that ask now and then must watch with one object.
_watched: dict[tuple[str, int], SoftFileLease] = {}


@contextmanager
def claim(path: Path, wait: float | None = 0.0) -> Iterator[SoftFileLease]:
    """Hold a claim while the block runs.

    Parameters
    ----------
    path
        File of the claim. Its folder is made if it is missing; the file is removed at the end.
    wait
        Seconds to wait for another holder, None to wait without limit.

    Yields
    ------
    SoftFileLease
        The claim; see :func:`check_held`.

    Raises
    ------
    StoreError
        Another process, or another block of this process, holds it, or it cannot be written.
    """
    watched = (os.path.abspath(path), os.getpid())
    lease = _watched.pop(watched, None)
    if lease is None:
        lease = SoftFileLease(path, lease_duration=DURATION, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lease, -1 if wait is None else wait)
    except (Timeout, LeaseSettingsMismatch):
        _watched[watched] = lease
        raise StoreError(
            f"{path}: in use by {_holder(lease)}; wait for it and call again"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(
            f"{path}: cannot be written ({reason}); choose another --results folder"
        ) from error
    try:
        yield lease
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, timeout: float) -> None:
    try:
        lease.acquire(timeout=timeout, poll_interval=_POLL)
    except Timeout:
        if lease.owner is not None:
            raise
        # Some file systems take two steps: one removes the claim of an ended process.
        lease.acquire(timeout=0)


def check_held(lease: SoftFileLease) -> None:
    """Check that a claim is still this caller's, before a step that must not be done twice.

    A process that was stopped for longer than :data:`DURATION` may have lost it to another one.

    Raises
    ------
    StoreError
        It was lost.
    """
    for _ in range(3):
        owner = lease.owner
        if owner is not None and owner.token == lease.token and lease.token is not None:
            return
        # A contender moves the file aside for a moment in order to look at it.
        time.sleep(_POLL)
    raise StoreError(f"{lease.lock_file}: lost to {_holder(lease)} while this process was stopped")


def _holder(lease: SoftFileLease) -> str:
    owner = lease.owner
    if owner is None:
        return "another process"
    return f"process {owner.pid} on {owner.hostname.partition(_TAKEN_FROM)[0]}"
