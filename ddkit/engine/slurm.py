"""Writes and submits a SLURM job array whose tasks share one run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddkit.core.files import write_bytes
from ddkit.errors import EnvironmentFailure, OptionError

TASKS = 8  # of an array, by default

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task=1{gpu}
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output={log}
# Add what your cluster asks for: --time, --partition, --account. The folders have to be on a disk that all nodes share.
# Each task takes units of the run that no other task has; tasks may start late, die, or be submitted again.
cd {folder}
exec {command} --workers "${{SLURM_CPUS_PER_TASK:-1}}"
"""
GPU_LINES = {
    True: "\n#SBATCH --gpus-per-task=1",
    False: "",
    None: "\n##SBATCH --gpus-per-task=1   (remove one # if the tasks shall have a GPU each)",
}


@dataclass(frozen=True)
class JobArray:
    """A job array.

    Attributes:
        script: Its batch script.
        path: Where the script is written.
    """

    script: str
    path: Path

    @classmethod
    def of(cls, where: str, command: Sequence[str], *, out: Path, work: Path, on_gpu: bool | None) -> JobArray:
        """Return the array that runs a command.

        Args:
            where: "slurm", or "slurm:TASKS".
            command: The command and its arguments, which each task runs.
            out: The directory that it makes.
            work: The directory OUT.work.
            on_gpu: Whether each task needs a GPU; None: the line that asks for one is a comment.

        Raises:
            OptionError: `where` is something else.
        """
        found = re.fullmatch(r"slurm(?::([1-9]\d{0,3}))?", where)
        if found is None:
            raise OptionError(f"--submit is {where!r}; give slurm, or slurm:TASKS as in slurm:16")
        script = SCRIPT.format(
            name=shlex.quote(f"ddkit-{re.sub(r'[^A-Za-z0-9_.-]', '-', out.name)}"), last=int(found[1] or TASKS) - 1,
            gpu=GPU_LINES[on_gpu], log=shlex.quote(f"{work.absolute()}/slurm-%A_%a.log"),
            folder=shlex.quote(str(Path.cwd())), command=shlex.join(command),
        )  # fmt: skip
        return cls(script, work / "distill.sbatch")

    def write(self) -> None:
        """Write the script. Raises DiskError."""
        write_bytes(self.path, self.script.encode())

    def submit(self) -> str:
        """Submit the script, which is written, and return the line that sbatch prints.

        Raises:
            EnvironmentFailure: There is no sbatch, or it refuses the script.
        """
        if shutil.which("sbatch") is None:
            raise EnvironmentFailure(f"there is no sbatch here; submit {self.path} on a login node of the cluster")
        done = subprocess.run(["sbatch", str(self.path)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFailure(f"sbatch: {done.stderr.strip() or done.returncode}; correct {self.path}")
        return done.stdout.strip()
