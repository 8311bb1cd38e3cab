"""What a worker process does, from its first line to its last."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench import own_methods
from bench.data.images.patches import Resampling
from bench.errors import BenchError, DataError
from bench.files import one_line
from bench.worker.handover import map_array, take_over
from bench.worker.task import TrialEndedError, read_task

_TRACEBACK = 20_000
"""Characters of a traceback that are sent."""


class Channel:
    """Messages to the harness, and its answers; usable from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def tell(self, kind: str, **facts: Any) -> None:
        """Send a message that wants no answer."""
        with self._lock:
            self._connection.send_bytes(json.dumps({"kind": kind, **facts}).encode())

    def ask(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Send a message and wait for its answer."""
        with self._lock:
            self._connection.send_bytes(json.dumps({"kind": kind, **facts}).encode())
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return answer

    def cut(self, number: int, size: int, pixels: int | None, resampling: Resampling) -> np.ndarray:
        """Patches of a section, cut by the harness."""
        return self._array(
            "patches", section=number, size=size, pixels=pixels, resampling=resampling
        )

    def cut_once(
        self, number: int, spots: range, size: int, pixels: int | None, resampling: Resampling
    ) -> np.ndarray:
        """Patches of a few spots, cut by the harness; their file is removed once it is mapped."""
        facts = {"size": size, "pixels": pixels, "resampling": resampling}
        answer = self._answer(
            "patches once", section=number, first=spots.start, stop=spots.stop, **facts
        )
        patches = map_array(Path(answer["path"]))
        with suppress(OSError):  # the harness removes it at the end, where it is in use
            os.unlink(answer["path"])
        return patches

    def extent(self, number: int) -> tuple[float, float]:
        """Width and height of the image of a section in full-resolution pixels."""
        answer = self._answer("extent", section=number)
        return answer["width"], answer["height"]

    def features(self, number: int) -> np.ndarray:
        """Features of a section that the user has brought along, matched by the harness."""
        return self._array("features", section=number)

    def _array(self, kind: str, **facts: Any) -> np.ndarray:
        return map_array(Path(self._answer(kind, **facts)["path"]))

    def _answer(self, kind: str, **facts: Any) -> dict[str, Any]:
        answer = self.ask(kind, **facts)
        if "error" in answer:
            raise DataError(answer["error"])
        return answer

    def progress(self, done: int, total: int, note: str) -> None:
        """Say how far a fit has come."""
        self.tell("progress", done=int(done), total=int(total), note=one_line(note))


def main(
    connection: Connection,
    work: str,
    text: str,
    environment: Mapping[str, str],
    setup: Mapping[str, Any],
) -> None:
    """Do one piece of work, answer, and end the process without waiting for anything in it.

    Parameters
    ----------
    connection
        To the harness.
    work
        ``fit``, ``describe`` or ``devices``.
    text
        What is to be done, as JSON.
    environment
        Environment variables of the harness, which the server that forks may not have.
    setup
        ``log``: file for what is printed, or None; ``threads``: number of threads of numerical
        libraries, or None; ``classes``: methods passed as classes, see
        :func:`bench.own_methods.pickled_classes`.
    """
    channel = Channel(connection)
    try:
        _settle(environment, setup)
        own_methods.take_over(setup.get("classes", {}))
        answer = _WORK[work](text, channel)
        channel.tell("answer", **answer)
        status = 0
    except TrialEndedError:
        channel.tell("ended")
        status = 0
    except BaseException as error:  # noqa: BLE001 - a method may raise anything; this is the end
        _report(channel, error)
        status = 1
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    # Threads and exit handlers of a method are not waited for.
    os._exit(status)


def _settle(environment: Mapping[str, str], setup: Mapping[str, Any]) -> None:
    """Make the process its own: group, environment, output, threads, random numbers."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()  # a signal for the terminal's processes is the harness's to handle
    _die_with_parent()
    _let_server_end()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    if setup.get("log"):
        log = os.open(setup["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    else:
        os.dup2(2, 1)  # standard output is for tables
    import faulthandler

    faulthandler.enable()
    threads = setup.get("threads")
    if threads:
        limit_threads(threads)


def limit_threads(threads: int) -> None:
    """Use so many threads in torch and in the libraries below numpy."""
    from threadpoolctl import threadpool_limits

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    threadpool_limits(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _die_with_parent() -> None:
    """On Linux: be killed when the server that forked this process ends, however it ends."""
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _let_server_end() -> None:
    """Close the pipe that keeps the server alive: it ends with the harness, however that ends.

    A forked process inherits it for the sake of processes that it might start by the same server.
    """
    server: Any = vars(forkserver)["_forkserver"]
    descriptor = getattr(server, "_forkserver_alive_fd", None)
    if descriptor is not None:
        os.close(descriptor)
        server._forkserver_alive_fd = None


def _report(channel: Channel, error: BaseException) -> None:
    trace = "".join(traceback.format_exception(error))[-_TRACEBACK:]
    with suppress(Exception):
        channel.tell(
            "error",
            refused=isinstance(error, BenchError),
            type=type(error).__name__,
            message=_text(error, 400),
            traceback=trace.encode("utf-8", "backslashreplace").decode(),
        )


def _text(error: BaseException, limit: int) -> str:
    """Message of an exception whose own ``__str__`` may fail."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a method's exception may be as broken as the method
        text = "(its message cannot be read)"
    return one_line(text, limit)


def _fit(text: str, channel: Channel) -> dict[str, Any]:
    from bench.registry import load_method
    from bench.worker.fitting import fit_and_predict

    task = read_task(text)
    training, slides = take_over(Path(task.inputs), channel, images=task.images)
    report = fit_and_predict(task, load_method(task.method), training, slides, channel)
    return vars(report)


def _describe(text: str, channel: Channel) -> dict[str, Any]:
    from bench.worker.describe import describe

    return describe(**json.loads(text))


def _devices(text: str, channel: Channel) -> dict[str, Any]:
    from bench.devices import find_devices

    return {"devices": find_devices()}


_WORK = {"fit": _fit, "describe": _describe, "devices": _devices}
