"""Runs jobs on a Ray cluster: Ray places them on nodes and GPUs, repeats those of a lost node, and moves on.

The set's folder must be one that every node sees. Results are files there, so nothing large travels through Ray.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.core.files import write_bytes
from ddkit.engine.jobs import AnyJob, Job, prepare_worker, run_jobs
from ddkit.errors import EnvironmentFailure, OptionError

RETRIES = 5  # of a job whose node or process is lost
AHEAD = 2  # jobs submitted for each slot of the cluster


def _run_there(function: Callable[..., Any], *args: Any) -> None:
    """Run a job in a worker process of the cluster."""
    prepare_worker()
    function(*args)


def _sees(path: str, text: str) -> bool:
    """Whether this node reads `text` in a file."""
    try:
        return Path(path).read_text() == text
    except OSError:
        return False


class _RayExecutor:
    """An executor whose functions run on a Ray cluster.

    Args:
        cpus: CPUs that each job takes, at most those of the largest node.
        on_gpu: Whether jobs take their share of a GPU.
    """

    def __init__(self, cpus: int, on_gpu: bool) -> None:
        import ray

        self._cpus, self._on_gpu = cpus, on_gpu
        self._remote = ray.remote(_run_there)

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function` with a folder and a job, `args`, on some node."""
        job: Job = args[-1]
        task = self._remote.options(
            name=job.id, num_cpus=self._cpus, num_gpus=job.gpu_share if self._on_gpu else 0, max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        future: Future[Any] = task.remote(function, *args).future()
        return future


@dataclass(frozen=True)
class RayCluster:
    """The engine of a Ray cluster: the running one that RAY_ADDRESS or this machine knows, else a new local one.

    Attributes:
        folder: A folder that every node has to see.
        on_gpu: Whether jobs run on GPUs.
    """

    folder: Path
    on_gpu: bool
    shared = False

    @property
    def workers(self) -> int:
        """Number of jobs that run at the same time, in all processes."""
        import ray

        _connect()
        return max(1, int(ray.cluster_resources().get("GPU" if self.on_gpu else "CPU", 1)))

    def run(self, jobs: Iterable[AnyJob], cpu_threads: int = 1) -> Iterator[AnyJob]:
        """Run jobs and yield them in the order of finishing; see Engine.run.

        Raises:
            EnvironmentFailure: A node does not see the folder, or jobs were lost more than RETRIES times.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        listed = list(jobs)
        if not listed:
            return
        _connect()
        self._check_nodes()
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus and not self.on_gpu:
            note(f"Ray: units run on CPUs although the cluster has {gpus} GPUs; run the command on a node with a GPU")
        cpus = min(cpu_threads, max(int(node["Resources"].get("CPU", 0)) for node in _nodes()))
        most = AHEAD * max(1, self.workers // cpus)
        try:
            yield from run_jobs(listed, _RayExecutor(cpus, self.on_gpu), most=most)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if not isinstance(cause, RayError):
                raise cause from error  # as the job raised it
            raise EnvironmentFailure(f"Ray: {_first_line(cause)}; run the same command again to continue") from error

    def _check_nodes(self) -> None:
        """Raise EnvironmentFailure if a node does not see the folder."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token, probe = secrets.token_hex(8), self.folder.absolute() / f".{os.getpid()}.probe.tmp"
        write_bytes(probe, token.encode())
        try:
            sees = ray.remote(_sees)
            asked = {
                node["NodeManagerAddress"]: sees.options(
                    num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                ).remote(str(probe), token)
                for node in _nodes()
            }
            if blind := [address for address, answer in asked.items() if not ray.get(answer)]:
                raise EnvironmentFailure(
                    f"the Ray node {blind[0]} does not see {self.folder.absolute()}; put OUT on a folder that "
                    "all nodes share"
                )
        finally:
            probe.unlink(missing_ok=True)


def _connect() -> None:
    """Connect to the cluster once per process.

    Raises:
        OptionError: Ray is not installed.
        EnvironmentFailure: There is no cluster at RAY_ADDRESS.
    """
    try:
        import ray
    except ImportError as error:
        raise OptionError("--engine ray needs Ray: pip install 'ddkit[ray]'") from error
    if ray.is_initialized():
        return
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EnvironmentFailure(f"Ray: {_first_line(error)}; check RAY_ADDRESS, or `ray start --head`") from error
    cpus = int(ray.cluster_resources().get("CPU", 0))
    note(f"Ray {ray.__version__}: {len(ray.nodes())} nodes, {cpus} CPUs")


def _nodes() -> list[dict[str, Any]]:
    """Return the living nodes that have CPUs."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
