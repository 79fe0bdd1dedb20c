"""Runs jobs on a Ray cluster: Ray places them on nodes and GPUs, repeats those of a lost node, and moves on.

Results are files. Nodes that see the set's folder write them there; those of other nodes travel through Ray.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.core.files import below, host, write_bytes
from ddkit.core.worker_state import STATE
from ddkit.engine.jobs import AnyJob, PortableJob, prepare_worker, run_jobs
from ddkit.engine.ray_files import FileServer, SharedFolder
from ddkit.errors import EnvironmentFailure, OptionError

RETRIES = 5  # of a job whose node or process is lost
AHEAD = 2  # jobs submitted for each slot of the cluster
LONGEST_ANSWER_S = 60.0  # of a node, for a question about its folders
ROOT = Path("/")


def _run_there(function: Callable[..., Any], folder: str, job: PortableJob, files: SharedFolder, inputs: Any) -> None:
    """Run a job in a worker process of the cluster."""
    prepare_worker()
    run = functools.partial(function, folder if Path(folder).is_dir() else os.getcwd())  # the source may be relative
    if files.are_seen(inputs):
        run(job)
    else:
        files.run_on_copies(run, job, inputs)


class _RayExecutor:
    """An executor whose functions run on a Ray cluster.

    Args:
        cpus: CPUs that each job takes, at most those of the largest node.
        on_gpu: Whether jobs take their share of a GPU.
        files: The set's files.
    """

    def __init__(self, cpus: int, on_gpu: bool, files: SharedFolder) -> None:
        import ray

        self._cpus, self._on_gpu, self._files = cpus, on_gpu, files
        self._remote = ray.remote(_run_there)
        self._submitted: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function` with a folder and a portable job, `args`, on some node."""
        folder, job = args
        inputs = tuple(below(ROOT, path) for path in job.inputs)
        task = self._remote.options(
            name=job.id, num_cpus=self._cpus, num_gpus=job.gpu_share if self._on_gpu else 0, max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        reference = task.remote(function, folder, job.below(ROOT), self._files, inputs)
        future: Future[Any] = reference.future()
        self._submitted = {one: ref for one, ref in self._submitted.items() if not one.done()} | {future: reference}
        return future

    def close(self) -> None:
        """Stop the tasks that have not finished, and wait until they have ended."""
        import ray

        running = [reference for future, reference in self._submitted.items() if not future.done()]
        for reference in running:
            ray.cancel(reference, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=LONGEST_ANSWER_S)


@dataclass(frozen=True)
class RayCluster:
    """The engine of a Ray cluster: the running one that RAY_ADDRESS or this machine knows, else a new local one.

    Attributes:
        folder: A folder of the set; nodes that do not see it work on copies of files.
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
        """Run portable jobs and yield them in the order of finishing; see Engine.run.

        Raises:
            EnvironmentFailure: Jobs were lost more than RETRIES times.
        """
        import ray
        from ray.exceptions import RayError

        listed = list(jobs)
        if not listed:
            return
        _connect()
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus and not self.on_gpu:
            note(f"Ray: units run on CPUs although the cluster has {gpus} GPUs; run the command on a node with a GPU")
        cpus = min(cpu_threads, max((int(node["Resources"]["CPU"]) for node in _nodes()), default=0))
        if not cpus:
            raise EnvironmentFailure("Ray: no node of the cluster has CPUs; start one: ray start --address=…")
        most = AHEAD * max(1, self.workers // cpus)
        try:
            with self._files() as files, contextlib.closing(_RayExecutor(cpus, self.on_gpu, files)) as executor:
                yield from run_jobs(listed, executor, most=most)
        except RayError as error:
            cause = _cause(error)
            if not isinstance(cause, RayError):
                raise cause from error  # as the job raised it
            raise EnvironmentFailure(f"Ray: {_first_line(cause)}; run the same command again to continue") from error

    @contextlib.contextmanager
    def _files(self) -> Iterator[SharedFolder]:
        """Serve the set's files to nodes that do not see the folder while the block runs."""
        import ray

        token, probe = secrets.token_hex(8), self.folder.absolute() / f".probe.{host()}.{os.getpid()}.tmp"
        write_bytes(probe, token.encode())
        files = SharedFolder(str(probe), token, _server())
        try:
            if ray.get(files.server.sizes.remote([str(probe)])) == [None]:
                raise EnvironmentFailure(
                    f"the Ray node that this command uses does not see {self.folder.absolute()}; run the command on a "
                    "machine of the cluster"
                )
            seen = _on_each_node(SharedFolder.is_seen, files)
            if blind := [address for address, answer in seen if not answer]:
                text = f"{len(blind)} of {len(seen)} Ray nodes do not see {self.folder.absolute()} ({blind[0]})"
                STATE.keep("Ray nodes noted", text, lambda: note(f"{text}; files are copied to them and back"))
            yield files
        finally:
            probe.unlink(missing_ok=True)
            _on_each_node(SharedFolder.remove_copies, files)


def _server() -> Any:
    """The handle of this process's file server, on its node."""
    import ray

    here = ray.get_runtime_context()
    server = ray.remote(FileServer).options(
        num_cpus=0, max_restarts=RETRIES, max_task_retries=RETRIES, scheduling_strategy=_on(here.get_node_id())
    )  # fmt: skip
    return STATE.keep("Ray file server", (here.get_node_id(), here.get_job_id()), server.remote)


def _on_each_node(function: Callable[[SharedFolder], Any], files: SharedFolder) -> list[tuple[str, Any]]:
    """Run `function` on each living node; return (address, result) of each node that answered."""
    import ray

    remote, asked = ray.remote(function), {}
    for node in _nodes():
        options = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node["NodeID"]))
        asked[options.remote(files)] = node["NodeManagerAddress"]
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LONGEST_ANSWER_S)
    found = []
    for answer in done:
        with contextlib.suppress(ray.exceptions.RayError):
            found.append((asked[answer], ray.get(answer)))
    return found


def _on(node: str) -> Any:
    """The scheduling strategy for a node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _cause(error: BaseException) -> BaseException:
    """The error that a task raised, also in an actor that it asked."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


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
