"""Claims: one holder at a time, and none of a process that has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from bench import claims
from bench.claims import check_held, claim
from bench.errors import StoreError

HOLD = """
import sys
from pathlib import Path
from bench import claims

claims.DURATION = float(sys.argv[2])
with claims.claim(Path(sys.argv[1])) as lease:
    print("held", flush=True)
    sys.stdin.readline()
    claims.check_held(lease)
    print("still held", flush=True)
"""

OF_ANOTHER_HOST = (
    "filelock/2\npid={pid}\nhost=elsewhere\nmode=lease\ntoken=ab\nduration={seconds}\n"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / ".claim"


@pytest.fixture
def holder(path):
    """Start another process that holds the claim until it is sent a line."""
    started = []

    def start(seconds=claims.DURATION):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write_foreign(path, seconds):
    path.parent.mkdir(parents=True)
    path.write_text(OF_ANOTHER_HOST.format(pid=os.getpid(), seconds=seconds))


def test_a_claim_leaves_nothing(path):
    with claim(path) as lease:
        assert path.is_file()
        check_held(lease)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(ZeroDivisionError), claim(path):
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []


def test_a_block_of_the_same_process_is_refused(path):
    refused = rf"\.claim: in use by process {os.getpid()} on [^ ?]+; wait for it"
    with claim(path), pytest.raises(StoreError, match=refused) as error, claim(path):
        pass
    assert "\n" not in str(error.value)


def test_a_living_holder_is_respected_and_named(path, holder):
    process = holder()
    begin = time.monotonic()
    with pytest.raises(StoreError, match=f"in use by process {process.pid} on "), claim(path):
        pass
    with pytest.raises(StoreError, match="in use by"), claim(path, 0.3):
        pass
    assert time.monotonic() - begin >= 0.3
    process.stdin.write("\n")
    process.stdin.flush()
    with claim(path, 10):
        assert process.communicate()[0] == "still held\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_claim_of_a_process_that_was_ended_is_free_at_once(path, holder, number):
    process = holder()
    process.send_signal(number)
    process.communicate()
    with claim(path) as lease:
        check_held(lease)
    assert list(path.parent.iterdir()) == []


def test_the_claim_of_an_ended_process_is_free_without_an_exchange_of_names(
    path, holder, monkeypatch
):
    # As on network file systems.
    monkeypatch.setattr("filelock._soft.exchange_supported", lambda: False, raising=False)
    process = holder()
    process.kill()
    process.communicate()
    with claim(path) as lease:
        check_held(lease)


def test_a_claim_of_another_host_is_free_when_it_gives_no_sign_of_life(path, monkeypatch):
    monkeypatch.setattr(claims, "DURATION", 1.0)
    write_foreign(path, 1.0)
    begin = time.monotonic()
    with claim(path, None) as lease:
        assert time.monotonic() - begin >= 1
        check_held(lease)


def test_a_claim_of_another_host_is_free_for_one_who_asks_now_and_then(path, monkeypatch):
    monkeypatch.setattr(claims, "DURATION", 0.5)
    write_foreign(path, 0.5)
    begin = time.monotonic()
    while True:
        try:
            with claim(path):
                break
        except StoreError as error:
            assert f"in use by process {os.getpid()} on elsewhere" in str(error)  # noqa: PT017
        time.sleep(0.1)
    assert time.monotonic() - begin >= 0.5


def test_a_claim_of_another_host_that_gives_signs_of_life_is_respected(path, monkeypatch):
    monkeypatch.setattr(claims, "DURATION", 0.6)
    write_foreign(path, 0.6)
    for _ in range(8):
        os.utime(path)
        with pytest.raises(StoreError, match="elsewhere"), claim(path, 0.2):
            pass


def test_a_claim_of_another_duration_is_respected(path):
    write_foreign(path, 5.0)
    with pytest.raises(StoreError, match="in use by process"), claim(path):
        pass


def test_a_holder_that_was_stopped_too_long_finds_out(path, holder, monkeypatch):
    monkeypatch.setattr(claims, "DURATION", 1.0)
    process = holder(1.0)
    process.send_signal(signal.SIGSTOP)
    with claim(path, 10) as lease:
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate("\n")
        assert process.returncode == 1
        assert f"lost to process {os.getpid()} on " in said
        check_held(lease)


def test_a_damaged_claim_does_not_stay(path):
    path.parent.mkdir()
    path.write_text("nonsense")
    with pytest.raises(StoreError, match="in use by another process"), claim(path):
        pass
    with claim(path, 10):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(path):
    path.parent.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written"), claim(path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    refused = "cannot be written .*; choose another --results folder"
    with pytest.raises(StoreError, match=refused), claim(tmp_path / "file" / ".claim"):
        pass
