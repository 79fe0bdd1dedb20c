"""Locks: the same run waits, another is refused, a dead process holds nothing."""

import errno
import fcntl
import multiprocessing
import os
import time

import pytest

from ddkit.core.files import host
from ddkit.core.locks import locked
from ddkit.errors import EnvironmentFailure, OtherRun


def hold(path, run, began, seconds):
    with locked(path, "working", run):
        began.set()
        time.sleep(seconds)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the lock of `tmp_path/out` for a while."""
    context = multiprocessing.get_context("spawn")
    processes = []

    def start(run, seconds):
        began = context.Event()
        process = context.Process(target=hold, args=(tmp_path / "out", run, began, seconds))
        process.start()
        processes.append(process)
        assert began.wait(60)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()
        process.close()


def test_the_same_run_is_waited_for_and_another_is_refused(tmp_path, holder, capsys):
    process = holder({"seed": 0, "ipc": None}, 2.0)
    with (
        pytest.raises(OtherRun, match=f"written by process {process.pid} on {host()}"),
        locked(tmp_path / "out", "x", {"seed": 1}),
    ):
        pass
    with pytest.raises(OtherRun), locked(tmp_path / "out", "x", wait=False):
        pass
    with locked(tmp_path / "out", "x", {"seed": 0, "ipc": 5}):
        assert not process.is_alive() or process.join(5) is None
    assert "waiting for it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    process = holder({"seed": 0}, 60)
    process.kill()
    process.join()
    with locked(tmp_path / "out", "x", {"seed": 1}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(EnvironmentFailure, match=f"file system of {tmp_path} has no locks"):
        locked(tmp_path / "out", "x").__enter__()
