"""Starting workers, talking to them, and ending them, whatever they do.

On Linux a server that has imported the heavy libraries once is forked for every piece of work,
which takes milliseconds. Elsewhere a new interpreter starts each time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import connection as connections
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from bench.errors import (
    BenchError,
    ConfigError,
    DataError,
    LeakError,
    StoreError,
    TrainingError,
)
from bench.files import one_line
from bench.own_methods import pickled_classes
from bench.worker import child

_LONGEST_MESSAGE = 1 << 24
_EXIT_SECONDS = 5.0
"""Seconds that a worker which has answered may take to end."""

_LOG_TAIL = 20_000
_start_lock = threading.Lock()


class _Server:
    """Whether this process has a server; a process that was forked from it has none."""

    pid: int | None = None

    @property
    def running(self) -> bool:
        return self.pid == os.getpid()


_server = _Server()
_REFUSALS = {kind.__name__: kind for kind in (ConfigError, DataError, LeakError, StoreError)}

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Given a message of a worker; returns the answer to it, None for a message that wants none."""


class WorkerRefusedError(BenchError):
    """What a method refuses: data, weights or settings that cannot be used.

    Attributes
    ----------
    original
        The error as it was raised in the worker.
    """

    def __init__(self, original: BenchError) -> None:
        super().__init__(str(original))
        self.original = original


class WorkerFailedError(TrainingError):
    """A method that failed, or a worker that ended without an answer.

    Attributes
    ----------
    details
        Traceback and last output, for the file that says why a fold failed.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


class Worker:
    """A process that does one piece of work.

    Parameters
    ----------
    work
        ``fit``, ``describe`` or ``devices``.
    text
        What is to be done, as JSON.
    answer
        Answers the messages that come before the last one.
    log
        File for what the process prints; its standard error where None.
    threads
        Number of threads of its numerical libraries; all cores where None.
    environment
        Environment variables that differ from this process's.
    time_limit
        Seconds after which it is ended, None without limit.
    """

    def __init__(
        self,
        work: str,
        text: str,
        *,
        answer: Answer = lambda message: None,
        log: Path | None = None,
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
        time_limit: float | None = None,
    ) -> None:
        self._answer = answer
        self._log = log
        self._limit = time_limit
        self._ends = None if time_limit is None else time.monotonic() + time_limit
        self._result: dict[str, Any] | None = None
        self._error: Exception | None = None
        # Only the description of a method may be asked before it is known what the server needs.
        alone = work == "describe" and not _server.running
        if not alone:
            start_server(networks=True)
        context: Any = multiprocessing.get_context("spawn" if alone else _how())
        self._connection, theirs = context.Pipe()
        setup = {
            "log": str(log) if log else None,
            "threads": threads,
            "classes": pickled_classes(text),
        }
        variables = {**os.environ, **(environment or {})}
        self._process = context.Process(
            target=child.main, args=(theirs, work, text, variables, setup), daemon=False
        )
        try:
            with _start_lock, _hidden_main():
                self._process.start()
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()

    @property
    def waits_on(self) -> tuple[Any, ...]:
        """What :func:`multiprocessing.connection.wait` can wait on for news of this worker."""
        return (self._connection, self._process.sentinel)

    @property
    def seconds_left(self) -> float | None:
        """Time until the limit, None without one."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def step(self) -> bool:
        """Take in what there is to be read without waiting; True once the work is over.

        Raises
        ------
        BenchError
            Whatever `answer` raises; the worker is ended then.
        """
        try:
            over = self._read()
        except BaseException:
            self.end()
            raise
        if over:
            self.end()
        return over

    def result(self) -> dict[str, Any]:
        """Answer of a worker whose work is over.

        Raises
        ------
        WorkerRefusedError
            The method refused its data or settings.
        WorkerFailedError
            The method failed, or the process ended without an answer.
        """
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def end(self) -> None:
        """End the process and those that it started; calling it again does nothing."""
        if self._process.is_alive() and self._result is not None:
            self._process.join(_EXIT_SECONDS)
        pid = self._process.pid
        if pid is not None and hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def _read(self) -> bool:
        if self._ends is not None and time.monotonic() >= self._ends:
            return self._failed(f"took longer than the limit of {self._limit:g} s")
        # Asked first: what was sent before the process ended is still to be read after it.
        ended = not self._process.is_alive()
        while self._connection.poll():
            try:
                message = json.loads(self._connection.recv_bytes(_LONGEST_MESSAGE))
                kind = message["kind"]
            except EOFError:
                break
            except (OSError, ValueError, KeyError, TypeError) as error:
                return self._failed(f"the worker sent what is no message ({one_line(error)})")
            if kind == "answer":
                self._result = message
                return True
            if kind == "ended":
                self._result = {}
                return True
            if kind == "error":
                return self._failed_with(message)
            answer = self._answer(message)
            if answer is not None:
                with suppress(OSError):  # it ended meanwhile, which is seen below
                    self._connection.send_bytes(json.dumps(answer).encode())
        if not ended:
            return False
        return self._failed(_how_it_ended(self._process.exitcode))

    def _failed(self, reason: str, trace: str = "") -> bool:
        self._error = WorkerFailedError(reason, _details(trace, self._log))
        return True

    def _failed_with(self, message: Mapping[str, Any]) -> bool:
        text = one_line(message.get("message", ""), 400)
        if message.get("refused"):
            refusal = _REFUSALS.get(str(message.get("type")), BenchError)
            self._error = WorkerRefusedError(refusal(text))
            return True
        kind = one_line(message.get("type", "error"), 80)
        reason = f"{kind}: {text}" if text else kind
        return self._failed(reason, str(message.get("traceback", "")))


def run_worker(work: str, text: str, **options: Any) -> dict[str, Any]:
    """Do one piece of work in a worker and wait for its answer.

    Parameters
    ----------
    work, text, options
        As of :class:`Worker`.

    Raises
    ------
    WorkerRefusedError, WorkerFailedError
        See :meth:`Worker.result`.
    """
    worker = Worker(work, text, **options)
    try:
        while not worker.step():
            connections.wait(worker.waits_on, worker.seconds_left)
    finally:
        worker.end()
    return worker.result()


def start_server(*, networks: bool) -> None:
    """Start the server that is forked for every worker, unless it runs; does not wait for it.

    Parameters
    ----------
    networks
        Whether it imports torch, Lightning and timm, once instead of for every fit.
    """
    if _server.running or _how() != "forkserver":
        return
    names = ["bench.worker.preload_basics", "bench.worker.preload_networks"]
    context = multiprocessing.get_context("forkserver")
    with _start_lock:
        context.set_forkserver_preload(names if networks else names[:1])
        forkserver.ensure_running()
        _server.pid = os.getpid()


def _how() -> str:
    return "forkserver" if sys.platform == "linux" else "spawn"


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep a new process from running the user's script again in search of its functions."""
    main = sys.modules["__main__"]
    names = [name for name in ("__file__", "__spec__") if name in vars(main)]
    hidden: dict[str, Any] = {name: vars(main).pop(name) for name in names}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update({"__spec__": None, **hidden})


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        why = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
        return f"its process was killed by {name}{why}"
    return f"its process ended with exit status {status} before it gave an answer"


def _details(trace: str, log: Path | None) -> str:
    """Traceback and the end of what the worker printed."""
    text = trace
    if log is not None:
        with suppress(OSError):
            printed = log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace").strip()
            if printed:
                text += f"\nLast output:\n{printed}\n"
    return text
