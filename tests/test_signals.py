"""A training that is told to stop saves where it stands; the same command goes on to the same weights."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

from ddkit.core import signals
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.networks.training import Fit, fit
from ddkit.specs import TrainSpec


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def job(tmp_path, at=None, number=None, steps=6):
    """Three epochs of random batches; signal `number` arrives while step `at` is made."""
    count = 0

    def batches(epoch):
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(steps):
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), number)
            yield torch.randn(4, 3, 2, 2, generator=generator), torch.randint(3, (4,), generator=generator)

    return Fit(
        spec=TrainSpec(loss="ce", epochs=3), epochs=3, steps_an_epoch=steps, batches=batches,
        loss=nn.functional.cross_entropy, seed=0, device=torch.device("cpu"), state=tmp_path / "x.state", key="k",
    )  # fmt: skip


def trained(job):
    made = network()
    log = fit(made, job)
    return {name: value.clone() for name, value in made.state_dict().items()}, [entry["loss"] for entry in log]


@pytest.mark.parametrize("at", [1, 5, 6, 7, 18])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_wherever_it_stops_it_ends_with_the_same_weights(tmp_path, at, number):
    """Also with dropout, in the middle of an epoch: weights and losses to the last bit."""
    whole, losses = trained(job(tmp_path / "whole"))
    before = signal.signal(signal.SIGTERM, lambda n, f: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        if number == signal.SIGUSR1:
            made, told = trained(job(tmp_path / "s", at, number))
        else:
            with pytest.raises(KeyboardInterrupt):
                trained(job(tmp_path / "s", at, number))
            assert (tmp_path / "s" / "x.state").is_file()
            made, told = trained(job(tmp_path / "s"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == losses and all(torch.equal(made[name], whole[name]) for name in whole)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_job_of_a_script_saves_too(tmp_path):
    """A shell without job control ignores SIGINT for what it starts with `&`; that stays, SIGUSR1 is heard."""
    whole, losses = trained(job(tmp_path / "whole"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        made, told = trained(job(tmp_path / "s", 7, signal.SIGUSR1))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == losses and all(torch.equal(made[name], whole[name]) for name in whole)


def test_asked_twice_it_ends_at_once():
    with pytest.raises(KeyboardInterrupt), signals.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.pending() == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert not signals.pending() and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_and_workers_change_no_handler():
    def inside():
        with signals.deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    seen = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    inside()
    signal.signal(signal.SIGINT, before)
    assert seen == [signal.default_int_handler, signal.SIG_IGN]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_with_its_code_and_goes_on(random_set, tmp_path, number, code):
    argv = [sys.executable, "-m", "ddkit", "train", str(random_set.root), "--epochs", "3000", "--out", "s.safetensors"]
    process = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "s.jsonl"
    while not log.is_file() or log.read_text().count("\n") < 5:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGUSR1)
    while not list(tmp_path.glob(".s.*.state")):
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code and "to continue" in told.splitlines()[-1]
    done = log.read_text().count("\n")
    again = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while log.read_text().count("\n") <= done:
        time.sleep(0.05)
        assert again.poll() is None, again.communicate()
    again.kill()
    again.communicate()
    epochs = [line.split('"epoch": ')[1].split(",")[0] for line in log.read_text().splitlines()]
    assert epochs == [str(i + 1) for i in range(len(epochs))] and len(epochs) > done
    with pytest.raises(Exception, match="no checkpoint"):
        load_checkpoint(tmp_path / "s.safetensors")


def test_a_command_that_has_nothing_to_save_goes_on_after_the_signal_to_save(tmp_path):
    program = """
import os, signal
from ddkit.cli import app
app.run = lambda: os.kill(os.getpid(), signal.SIGUSR1)
app.main()
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path).returncode == 0
