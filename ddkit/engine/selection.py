"""Selects the engine of a run from options, the environment of launchers, and the machine."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ddkit.core.device import cores
from ddkit.engine.jobs import Engine
from ddkit.engine.local import Local
from ddkit.engine.ranks import Place, Ranks
from ddkit.engine.ray_cluster import RayCluster
from ddkit.errors import OptionError, unknown

ENGINES = ("local", "ranks", "ray")
CLAIMS = "claims"  # folder of claims in OUT.work


def select_engine(
    name: str | None, *, device: torch.device, workers: int | None, devices: str | None, work: Path
) -> Engine:
    """Return the engine of a run.

    Args:
        name: "local", "ranks" or "ray". None: "ranks" where a launcher started several processes, else "local".
        device: The device that jobs name.
        workers: Number of processes on the cores of this machine. None: all cores; one for each rank of a launcher.
        devices: GPUs of this machine, "all" or "0,1". None: all.
        work: The directory OUT.work.

    Raises:
        OptionError: The engine is unknown or does not suit the environment, or there are no such GPUs.
    """
    if name is not None and name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    place = Place.of(os.environ)
    if name == "ranks" and place is None:
        raise OptionError(
            "--engine ranks is for processes that torchrun, srun or a SLURM or PBS array starts; their variables are "
            "not set here; leave --engine out"
        )
    on_gpu = device.type == "cuda"
    if name == "ray":
        _only_local("ray", workers=workers, devices=devices)
        return RayCluster(work, on_gpu)
    if place is None or name == "local" or (name is None and place.is_alone):
        return Local((workers or cores()) if device.type == "cpu" else 1, _gpus(devices, device))
    _only_local("ranks", devices=devices)
    if on_gpu and device.index is None:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    return Ranks(place, work / CLAIMS, Local((workers or 1) if device.type == "cpu" else 1))


def _only_local(engine: str, **given: object) -> None:
    """Raise OptionError if an option of the local engine is given."""
    if names := [f"--{name}" for name, value in given.items() if value is not None]:
        raise OptionError(f"{' and '.join(names)} is for the engine local, not {engine}; leave it out")


def _gpus(devices: str | None, device: torch.device) -> tuple[str, ...]:
    """Return the GPUs to use, as for CUDA_VISIBLE_DEVICES; empty for a device that is not all of CUDA."""
    if device.type != "cuda" or device.index is not None:
        if devices is not None:
            raise OptionError(f"--devices {devices} is for GPUs, but the device is {device}; leave it out")
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if devices in (None, "all"):
        return tuple(names)
    chosen = str(devices).split(",")
    if wrong := [one for one in chosen if not one.isdigit() or int(one) >= len(names)]:
        raise OptionError(f"--devices {devices}: there is no GPU {wrong[0]!r}; they are numbered 0 to {len(names) - 1}")
    if len(chosen) == 1:  # its jobs run in this process
        torch.cuda.set_device(int(chosen[0]))
    return tuple(names[int(one)] for one in chosen)
