"""Several ranks train as one process does: real processes that talk through Gloo, started as torchrun starts them."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d, EvoNorm2dB0
from torch import nn

from ddkit.core.distributed import ALONE, Group, leads, open_group, rank_device
from ddkit.errors import DdkitError, DiskError, OptionError, RankLost
from ddkit.evaluation.students import StudentOptions, plan_students, train
from ddkit.format.manifest_file import read_manifest
from ddkit.networks.batch_norm import GlobalBatchNorm, check_batch_norms
from ddkit.networks.checkpoints import load_checkpoint, tensor_hash
from ddkit.networks.registry import build_network
from ddkit.networks.training import Fit, accuracy, fit, seeded_network
from ddkit.specs import TrainSpec
from ddkit.students.training import _supervision
from ddkit.teachers.teaching import _Batches, teach

CPU = torch.device("cpu")


def environment(rank, world, port):
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in values.items()} | {"OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _work(rank, world, port, work, arguments):
    os.environ.update(environment(rank, world, port))
    torch.set_num_threads(1)
    return work(*arguments)


@pytest.fixture(scope="module")
def ranks():
    """Calls a function in several ranks; returns what each returned. The processes are those of all tests here."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ddkit.evaluation.students", "timm", "torchvision", "sklearn.datasets"])
    with ProcessPoolExecutor(4, mp_context=context) as pool:

        def run(world, work, *arguments):
            port = free_port()
            futures = [pool.submit(_work, rank, world, port, work, arguments) for rank in range(world)]
            return [future.result(timeout=60) for future in futures]

        yield run


# ------------------------------------------------------------------ the group


def _talk():
    with open_group(rank_device("cpu")) as group:
        assert group.highest(1) == 1
    with open_group(rank_device("cpu")) as group:  # a second training of the same program
        told = group.rank, group.world_size, group.leads, leads()
        same = group.same("a"), group.same(str(group.rank))
        return told, group.highest(group.rank), group.of_leader(0.25 + group.rank), same, group.part(7)


def test_ranks_tell_each_other(ranks):
    found = ranks(3, _talk)
    assert [told for told, *_ in found] == [(rank, 3, rank == 0, rank == 0) for rank in range(3)]
    assert all((highest, first, same) == (2, 0.25, (True, False)) for _, highest, first, same, _ in found)
    assert [i for *_, part in found for i in range(7)[part]] == list(range(7))


def _inside_another():
    torch.distributed.init_process_group("gloo")
    with pytest.raises(OptionError, match="has opened a process group"), open_group(CPU):
        pass
    torch.distributed.destroy_process_group()


def test_a_program_that_has_a_process_group_is_told(ranks):
    ranks(2, _inside_another)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # other launchers set some of the variables
    with open_group(rank_device("cpu")) as group:
        assert group is ALONE and group.alone and leads() and group.same("x") and group.part(5) == slice(0, 5)
    for name, value in environment(3, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match="RANK is 3, WORLD_SIZE 2"):
        leads()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(OptionError, match="variable RANK is 'one'"):
        leads()
    for name, value in environment(0, 1, 1).items():
        monkeypatch.setenv(name, value)
    assert rank_device("cpu") == CPU and leads()


# ------------------------------------------------------------------ BatchNorm


def _norms():
    return [
        nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False, momentum=None), nn.BatchNorm2d(3, track_running_stats=False),
        BatchNormAct2d(3, inplace=False), nn.BatchNorm1d(3),
    ]  # fmt: skip


def _normalised(norm, x, group):
    """(outputs, gradients of inputs, the rest) of this rank's rows."""
    part = slice(None) if group is None else slice(*((0, 4), (4, 4), (4, 5))[group.rank])  # the second has none
    torch.manual_seed(1)
    factor, x = torch.randn_like(x)[part], x[part].clone().requires_grad_()
    found = norm(x)
    (found * factor).sum().backward()
    weights = torch.cat([p.grad for p in norm.parameters()]) if list(norm.parameters()) else torch.zeros(1)
    return found.detach(), x.grad, weights if group is None else group.sum(weights), dict(norm.named_buffers())


def _all_normalised():
    with open_group(CPU) as group, GlobalBatchNorm(group):
        found = [_normalised(norm, x, group) for norm, x in _cases()]
        still = nn.BatchNorm2d(3).eval()(torch.ones(2, 3, 1, 1))
    arrays = [(*(t.numpy() for t in tensors), {k: v.numpy() for k, v in held.items()}) for *tensors, held in found]
    return arrays, still.detach().numpy()


def _cases():
    torch.manual_seed(0)
    return [(norm, 5 * torch.randn(5, 3, *([2, 2] if norm is not last else [])) + 7)
            for norms in [_norms()] for last in [norms[-1]] for norm in norms]  # fmt: skip


def test_batch_norm_of_ranks_is_that_of_the_joined_batch(ranks):
    found = ranks(3, _all_normalised)
    for i, (norm, x) in enumerate(_cases()):
        outputs, inputs, weights, held = _normalised(norm, x, None)
        mine = [arrays[i] for arrays, _ in found]
        assert np.allclose(np.concatenate([m[0] for m in mine]), outputs, atol=1e-5)
        assert np.allclose(np.concatenate([m[1] for m in mine]), inputs, atol=1e-5)
        assert np.allclose(mine[1][2], weights, atol=1e-5)
        for name, value in held.items():
            assert all(np.array_equal(m[3][name], mine[0][3][name]) for m in mine)
            assert np.allclose(mine[0][3][name], value, rtol=1e-5)
    assert np.allclose(found[0][1], 1, atol=1e-4)


def test_layers_with_statistics_of_their_own_are_refused():
    check_batch_norms(nn.Sequential(*_norms(), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3)))
    for layer in (EvoNorm2dB0(3), nn.InstanceNorm2d(3, track_running_stats=True)):
        with pytest.raises(OptionError, match=f"has a {type(layer).__name__}"):
            check_batch_norms(nn.Sequential(layer))


# ------------------------------------------------------------------ trainings


def _followed(directory, arch, labels, batch, precision):
    """What one rank sees of an epoch: its inputs, the loss of each step, and the hash of the weights."""
    torch.set_num_threads(1)
    manifest = read_manifest(directory)
    options = StudentOptions(arch=arch, labels=labels)
    (job,) = plan_students(manifest, options, [3], Path("unused"))
    spec = replace(job.spec, batch=batch, precision=precision, optimiser="sgd", lr=0.01)
    network = seeded_network(lambda: build_network(arch, 10, 32), 3)
    with open_group(CPU) as group:
        data = _supervision(replace(job, spec=spec), manifest, batch, CPU, group)
        steps = [(inputs.clone(), target) for inputs, target in data.batches(1)]
        log = fit(network, Fit(
            spec=spec, epochs=data.steps, steps_an_epoch=1, batches=lambda step: steps[step : step + 1],
            loss=data.loss, seed=0, device=CPU, group=group,
        ))  # fmt: skip
    return [inputs.numpy() for inputs, _ in steps], [e["loss"] for e in log], tensor_hash(network.state_dict())


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(
    ("arch", "labels", "batch", "precision"),
    [
        ("convnet3-in", "stored", 16, "float32"),  # on 4 ranks: 4 rows each, then 1
        (
            "timm:resnet10t",
            "hard",
            18,
            "float32",
        ),  # 18 do not divide by 4; the last 2 leave ranks without rows
        ("convnet3", "stored", 18, "bfloat16"),
    ],
)
def test_ranks_see_the_rows_of_one_process_and_end_with_one_network(
    random_set, ranks, world, arch, labels, batch, precision
):
    arguments = str(random_set.root), arch, labels, batch, precision
    rows, losses, _ = _followed(*arguments)
    found = ranks(world, _followed, *arguments)
    for step, expected in enumerate(rows):
        assert np.array_equal(np.concatenate([mine[step] for mine, *_ in found]), expected)
    assert all(told == found[0][1] and weights == found[0][2] for _, told, weights in found)
    assert found[0][1][0] == pytest.approx(losses[0], abs=1e-6 if precision == "float32" else 1e-4)
    assert found[0][1][1] == pytest.approx(losses[1], rel=1e-3 if precision == "float32" else 0.1)  # by the gradients


def _job(folder, group, **options):
    data = torch.from_numpy(np.random.default_rng(0).standard_normal((22, 3, 8, 8)).astype(np.float32))
    target = torch.arange(22) % 3

    def batches(epoch):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(22))
        for i in range(0, 22, 8):
            rows = order[i : i + 8]
            yield data[rows[group.part(len(rows))]], target[rows[group.part(len(rows))]]

    return Fit(
        spec=TrainSpec(lr=0.01, optimiser="sgd"), epochs=4, steps_an_epoch=3, batches=batches,
        loss=nn.CrossEntropyLoss(), seed=0, device=CPU, state=folder / "s", log=folder / "log", group=group, **options,
    )  # fmt: skip


def _network():
    return seeded_network(lambda: nn.Sequential(build_network("convnet3", 16, 8), nn.Linear(16, 3)), 0)


class Stop(Exception):
    pass


def _stopped(folder):
    def stop(n, earlier=False):
        raise Stop

    with pytest.MonkeyPatch.context() as patch, open_group(CPU) as group:
        patch.setattr("ddkit.networks.training.SAVE_EVERY_S", 0.0)
        with pytest.raises(Stop):
            fit(_network(), _job(folder, group, on_epoch=stop))


def _resumed(folder):
    network = _network()
    with open_group(CPU) as group:
        log = fit(network, _job(folder, group))
        images, labels = torch.arange(768, dtype=torch.uint8).view(4, 3, 8, 8).repeat(3, 1, 1, 1), torch.arange(12) % 3
        right = accuracy(network, images, labels, (0.5,) * 3, (0.5,) * 3, CPU, group=group)
    return [e["loss"] for e in log], right, {name: t.numpy() for name, t in network.state_dict().items()}


def test_a_training_resumes_with_another_number_of_ranks(tmp_path, ranks):
    (tmp_path / "whole").mkdir()
    losses, right, weights = _resumed(tmp_path / "whole")
    for first, then in ((4, 2), (1, 3)):
        folder = tmp_path / f"{first}-{then}"
        folder.mkdir()
        _stopped(folder) if first == 1 else ranks(first, _stopped, folder)
        assert (folder / "log").read_text().count("\n") == 1
        for told, measured, made in ranks(then, _resumed, folder):
            assert told == pytest.approx(losses, rel=1e-3) and measured == pytest.approx(right, abs=9)
            assert all(np.allclose(made[name], weights[name], atol=1e-3) for name in weights)
        assert (folder / "log").read_text().count("\n") == 4


def _refused(folder, options):
    """The error of each rank, where `options` has other arguments for each."""
    with pytest.raises(DdkitError) as found, open_group(CPU) as group:
        job = _job(folder, group)
        fit(_network(), replace(job, **{name: values[group.rank] for name, values in options.items()}))
    return type(found.value), str(found.value)


def test_ranks_that_differ_stop_with_one_clear_line(tmp_path, ranks):
    found = ranks(2, _refused, tmp_path, {"key": ["a", "b"]})
    assert [kind for kind, _ in found] == [OptionError] * 2 and "the ranks were given different" in found[1][1]
    ranks(2, _stopped, tmp_path)
    found = ranks(2, _refused, tmp_path, {"state": [tmp_path / "s", tmp_path / "not-shared"]})
    assert [kind for kind, _ in found] == [DiskError] * 2 and "a disk that they share" in found[1][1]


def _fails_alone(folder):
    def batches(epoch):
        if group.rank == 1:
            raise OptionError("this rank alone fails")
        yield torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)

    with pytest.raises(DdkitError) as found, open_group(CPU) as group:
        fit(_network(), replace(_job(folder, group), batches=batches))
    return type(found.value), str(found.value)


def test_when_one_rank_fails_the_others_say_so(tmp_path, ranks):
    (kind, message), (own, _) = ranks(2, _fails_alone, tmp_path)
    assert own is OptionError and kind is RankLost
    assert message.startswith("rank 0 of 2 lost the connection") and "\n" not in message


def _taught(out):
    spec = teach(out, data="digits", arch="convnet3-in", epochs=1, classes="0,1,2", seed=5)
    return spec.accuracy, out.is_file()


def test_teachers_are_trained_by_ranks_too(tmp_path, ranks):
    alone, _ = _taught(tmp_path / "alone.safetensors")
    found = ranks(2, _taught, tmp_path / "t.safetensors")
    assert found == [(found[0][0], True)] * 2 and abs(found[0][0] - alone) < 10
    assert load_checkpoint(tmp_path / "t.safetensors")[1].accuracy == found[0][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.safetensors", "t.safetensors"]


@pytest.mark.parametrize("augment", ["shift", "crop-flip", "rrc-flip"])
def test_parts_of_a_teachers_batch_are_the_batch(augment):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (23, 3, 16, 16), dtype=np.uint8))

    def parts(group):
        spec = TrainSpec(batch=10, augment=augment)
        made = _Batches(pixels, torch.arange(23), spec, 16, 0, (0.5,) * 3, (0.5,) * 3, group)
        assert len(made) == 2
        return list(made.epoch(1))

    for world in (1, 2, 3, 4):
        of_ranks = [parts(Group(rank, world)) for rank in range(world)]
        for step, (inputs, labels) in enumerate(parts(ALONE)):
            assert torch.equal(torch.cat([mine[step][0] for mine in of_ranks]), inputs)
            assert torch.equal(torch.cat([mine[step][1] for mine in of_ranks]), labels)


# ------------------------------------------------------------------ the command


def _until_estimated(directory, out):
    def stop(seconds):
        raise Stop

    with pytest.raises(Stop):
        train(directory, epochs=3000, out=out, device="cpu", on_estimate=stop)


def test_stopped_by_a_signal_or_killed_it_goes_on_with_another_number_of_ranks(random_set, tmp_path, ranks):
    """A signal to any one rank stops all of them at the same step, with their exit codes; one state is saved."""
    argv = [sys.executable, "-m", "ddkit", "train", str(random_set.root), "--epochs", "3000", "--out", "s.safetensors"]
    log, out = tmp_path / "s.jsonl", tmp_path / "s.safetensors"

    def started(lines):
        port = free_port()
        both = [
            subprocess.Popen(argv, cwd=tmp_path, env=os.environ | environment(rank, 2, port), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank in range(2)
        ]  # fmt: skip
        while not log.is_file() or log.read_text().count("\n") < lines:
            time.sleep(0.02)
            assert all(p.poll() is None for p in both), [p.communicate() for p in both]
        return both

    both = started(2)
    both[1].send_signal(signal.SIGTERM)
    told = [p.communicate(timeout=30) for p in both]
    assert [p.returncode for p in both] == [143, 143], told
    assert len(list(tmp_path.glob(".s.*.state"))) == 1
    assert told[1] == ("", "error: terminated; run the same command again to continue\n")  # rank 0 prints the rest
    ranks(3, _until_estimated, str(random_set.root), out)  # resumes, measures 20 steps, and is stopped
    both = started(log.read_text().count("\n") + 2)
    both[1].kill()
    (_, message), _ = (p.communicate(timeout=30) for p in both)
    assert both[0].returncode == 1
    assert message.splitlines()[-1].startswith("error: rank 0 of 2 lost the connection to another rank, which failed")
    epochs = [line.split('"epoch": ')[1].split(",")[0] for line in log.read_text().splitlines()]
    assert epochs == [str(i + 1) for i in range(len(epochs))] and not out.exists()
