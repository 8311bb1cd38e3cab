"""Connection to a Ray cluster: its address, a check that it answers, and quiet output."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from bench.errors import BenchError
from bench.files import one_line

LOCAL, AUTO = "local", "auto"
"""Addresses: a cluster started for this call, and the cluster running on this machine."""

CONNECT_SECONDS = 5.0
"""Seconds within which the port of a cluster must accept a connection."""

ANSWER_SECONDS = 30.0
"""Seconds within which a cluster must accept a first client."""

_NO_STATISTICS = {"RAY_USAGE_STATS_ENABLED": "0"}

# Ray itself would wait for minutes and write to the terminal.
_PROBE = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(type(error).__name__ + ": " + " ".join(str(error).split()))
    sys.exit(1)
"""


def check_installed() -> None:
    """Check that the Ray library is installed.

    Raises
    ------
    BenchError
        Ray is not installed; the message contains the command that installs it.
    """
    if importlib.util.find_spec("ray") is None:
        raise BenchError("--executor ray needs the Ray library; pip install 'spotbench[ray]'")


def cluster_address(asked: str | None) -> str:
    """Address of the cluster: the option, else ``RAY_ADDRESS``, else ``auto``."""
    return asked or os.environ.get("RAY_ADDRESS") or AUTO


def check_cluster(address: str) -> None:
    """Check that a cluster answers, without starting one.

    Raises
    ------
    BenchError
        It does not answer within :data:`CONNECT_SECONDS` and :data:`ANSWER_SECONDS`, or refuses
        this machine.
    """
    if address == LOCAL:
        return
    if address != AUTO:
        _check_port(address)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            env={**os.environ, **_NO_STATISTICS},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _no_answer(address, f"nothing within {ANSWER_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise _no_answer(address, one_line(done.stdout or "the client died", 300))


def _check_port(address: str) -> None:
    if address.startswith("ray://"):
        raise BenchError(
            f"--ray-address {address}: Ray Client is not supported; call bench on a node of the"
            " cluster with the HOST:PORT that 'ray start' showed"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise BenchError(f"--ray-address '{one_line(address, 80)}': write HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise _no_answer(address, one_line(error) or type(error).__name__) from None


def _no_answer(address: str, reason: str) -> BenchError:
    if address == AUTO:
        known = "" if "Could not find any running Ray" in reason else f" ({reason})"
        return BenchError(
            f"no Ray cluster runs on this machine{known}; name one with --ray-address"
            " HOST:PORT, or use --ray-address local to start Ray on this machine"
        )
    return BenchError(
        f"no Ray cluster can be used at {address} ({reason}); check --ray-address, and call bench"
        " on a node of the cluster"
    )


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to a cluster; yields the Ray library.

    SIGTERM is handled as before; where it would have ended the process, it raises
    ``KeyboardInterrupt``, so that the caller can cancel its tasks. A connection that this process
    already has is used and left open.

    Parameters
    ----------
    address
        ``HOST:PORT``, ``auto``, or ``local`` for a cluster on this machine, which ends with
        the connection.

    Raises
    ------
    BenchError
        The connection fails.
    """
    import ray

    if ray.is_initialized():
        yield ray
        return
    _print_losses(False)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray's errors share no base class
            raise _no_answer(address, f"{type(error).__name__}: {one_line(error)}") from error
        if in_main:
            handler = before if callable(before) else signal.default_int_handler
            signal.signal(signal.SIGTERM, handler)
        yield ray
    finally:
        ray.shutdown()
        if in_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _print_losses(True)


def _print_losses(enabled: bool) -> None:
    """Set whether Ray prints details of each lost node; there is no public switch."""
    private = sys.modules.get("ray._private.worker")
    if private is not None:
        vars(private)["_worker_logs_enabled"] = enabled
