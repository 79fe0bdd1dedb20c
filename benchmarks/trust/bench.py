"""What trials run on: commands as forks of this process, a Hub in a process of its own, and things made once."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loopback

CANARY = "hf_canaryCANARYcanaryCANARYcanary0"  # a token whose text must appear nowhere
QUICK_TEACH = "epochs = 3\nbatch = 256\nmin_steps = 0\n"
CLASSES, SIDE = 4, 16  # of the toy source: digits, four classes of 16 pixels


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Attributes:
        code: Its exit code, or minus the signal that ended it.
        text: What it wrote to stdout and stderr.
        seconds: How long it ran.
        reached: How often it reached each fault point, if it ended by itself.
    """

    code: int
    text: str
    seconds: float
    reached: Mapping[str, int]

    @property
    def last_line(self) -> str:
        """The last line it wrote."""
        return (self.text.strip().splitlines() or [""])[-1]


def fork() -> int:
    """Fork; the child is killed when this process ends."""
    process = os.fork()
    if process == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    return process


class HubProcess:
    """`tests/loopback.py` in a process of its own: this one may then fork, since it has no threads.

    `ask(name, ...)` calls the method of that name there.
    """

    def __init__(self) -> None:
        here, there = multiprocessing.Pipe()
        self._process = fork()
        if self._process == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            here.close()
            _serve(there)
            os._exit(0)
        there.close()
        self._pipe = here
        self.url: str = self._pipe.recv()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of `_Served`; its error is raised here as a RuntimeError."""
        self._pipe.send((name, arguments))
        told, value = self._pipe.recv()
        if told == "error":
            raise RuntimeError(value)
        return value

    def stop(self) -> None:
        self._pipe.close()
        os.waitpid(self._process, 0)


class _Served:
    """What may be asked of the Hub's process."""

    def __init__(self, hub: loopback.Hub) -> None:
        self.hub = hub
        self.reset()

    def reset(self) -> None:
        self.hub.reset()
        self.hub.users[CANARY] = loopback.User("ann", ("lab",))
        self.hub.stall_s = 0.3
        self.hub.watch = half

    def plan(self, seed: int | None, xet: bool = False) -> list[str]:
        """Set the faults of a seed, none without one; returns them in words."""
        self.hub.faults = [] if seed is None else loopback.schedule(seed, xet=xet)
        return [f"{fault.kind} at {fault.on}" for fault in self.hub.faults]

    def violations(self) -> list[str]:
        found, self.hub.violations = self.hub.violations, []
        return found

    def traffic(self) -> int:
        """Bytes of large files received since the last call."""
        received = self.hub.received_bytes
        self.hub.forget_traffic()
        return received

    def sets(self, repo: str) -> tuple[str, list[str]]:
        """The content that main's manifest names, and the names of its tags."""
        found = self.hub.repos["dataset", repo]
        return json.loads(found.read("ddkit.json"))["content"], sorted(found.tags)

    def holds(self, text: bytes) -> list[str]:
        """Files of any repository with these bytes in them."""
        return [
            f"{repo.id} {path}"
            for repo in self.hub.repos.values()
            for path in repo.files()
            if text in repo.read(path) or text in path.encode()
        ]


def half(hub: loopback.Hub) -> None:
    """Raises where `main` names a file of a set that is not there, or holds one that no manifest lists."""
    from ddkit.format.manifest_file import parse_manifest

    for repo in hub.repos.values():
        files = repo.files()
        held = {path for path in files if path.endswith((".tar", ".rows"))}
        listed = set[str]()
        if "ddkit.json" in files:
            listed = set(parse_manifest(repo.read("ddkit.json"), Path("ddkit.json")).files())
        assert held == listed, f"main holds {sorted(held ^ listed)[:3]} beside its manifest"


def _serve(pipe: Any) -> None:
    hub = loopback.Hub()
    hub.start()
    pipe.send(hub.url)
    import ddkit.format.manifest_file  # noqa: F401 (for `half`: not while a command waits)

    served = _Served(hub)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            hub.stop()
            return
        try:
            pipe.send(("done", getattr(served, name)(*arguments)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))


@dataclass
class Bench:
    """Where trials run.

    Attributes:
        work: Folder of what is made once and kept.
        hub: The Hub.
        scratch: Folder of the running trial; emptied after it.
    """

    work: Path
    hub: HubProcess
    scratch: Path = field(init=False)

    def __post_init__(self) -> None:
        self.scratch = self.work / "scratch"
        self.clear()

    def clear(self) -> None:
        """Empty the folder of the trial."""
        if (disk := self.scratch / "disk").is_mount():
            subprocess.run(["umount", disk], check=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    # -------------------------------------------------------------- things made once

    def made(self, name: str, make: Callable[[Path], Any]) -> Any:
        """What `make` returned for a new folder, as JSON; it is called in a fork, unless it was before.

        Args:
            name: Name of the folder in `work`.
            make: Fills the folder.
        """
        folder = self.work / "made" / name
        told = folder / "made.json"
        if not told.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            value = self.forked(lambda: make(folder))
            told.write_text(json.dumps(value))
        return json.loads(told.read_text())

    def folder(self, name: str) -> Path:
        """The folder of something made once."""
        return self.work / "made" / name

    def teacher(self) -> Path:
        """A teacher of the toy source with random weights."""

        def make(folder: Path) -> None:
            from ddkit.testing import untrained_teacher

            untrained_teacher(folder / "t.safetensors", arch="convnet3", classes=CLASSES, size=SIDE)
            (folder / "quick.toml").write_text(QUICK_TEACH)

        self.made("teacher", make)
        return self.folder("teacher") / "t.safetensors"

    def sets(self) -> tuple[Path, Path]:
        """A set of the toy source by RDED with prefixes 1 and 3, mixed views; and one of random images, IPC 2."""
        teacher = self.teacher()

        def make(folder: Path) -> None:
            from ddkit.pipeline import distill

            toy = {"data": "digits", "classes": "0,1,2,3", "teacher": str(teacher), "workers": 1}
            settings = {"pool": 4, "factor": 2}
            distill(folder / "rded", method="rded", prefixes=(1, 3), settings=settings, protocol="rded", views=5, **toy)
            distill(folder / "random", method="random", ipc=2, protocol="demo", views=3, **toy)

        self.made("sets", make)
        return self.folder("sets") / "rded", self.folder("sets") / "random"

    # -------------------------------------------------------------- running

    def forked(self, call: Callable[[], Any]) -> Any:
        """Call a function in a fork and return its value, which is JSON; its error is raised as a RuntimeError."""
        readable, writable = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        process = fork()
        if process == 0:
            os.close(readable)
            try:
                told = {"value": call()}
            except BaseException:
                told = {"error": traceback.format_exc()}
            with os.fdopen(writable, "w") as pipe:
                json.dump(told, pipe)
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as pipe:
            text = pipe.read()
        _, status = os.waitpid(process, 0)
        told = json.loads(text) if text else {"error": f"the process ended with status {status}"}
        if "error" in told:
            raise RuntimeError(told["error"])
        return told["value"]

    def start(self, argv: Sequence[str], fault: str | None = None, name: str = "command") -> Running:
        """Start `ddkit argv` in a fork, with the trial's folder as the working directory.

        Args:
            argv: The command's arguments.
            fault: A fault, as in DDKIT_FAULT.
            name: Name of the file of its output.
        """
        log = self.scratch / f".{name}.txt"
        sys.stdout.flush()
        sys.stderr.flush()
        process = fork()
        if process == 0:
            try:
                _command(argv, fault, log)
            except BaseException:
                traceback.print_exc()
                os._exit(99)
        return Running(process, log, time.monotonic())

    def ddkit(self, argv: Sequence[str], fault: str | None = None, kill_after: float | None = None) -> Finished:
        """Run `ddkit argv` in a fork until it ends.

        Args:
            argv: The command's arguments.
            fault: A fault, as in DDKIT_FAULT.
            kill_after: Seconds after which it is killed.
        """
        running = self.start(argv, fault)
        if kill_after is not None and running.poll(kill_after) is None:
            os.kill(running.process, signal.SIGKILL)
        return running.wait()


@dataclass
class Running:
    """A command that was started."""

    process: int
    log: Path
    began: float
    finished: Finished | None = None

    def poll(self, seconds: float = 0.0) -> Finished | None:
        """How it ended, if it does within some seconds."""
        deadline = time.monotonic() + seconds
        while self.finished is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.finished = self._told(os.waitstatus_to_exitcode(status))
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.002)
        return self.finished

    def wait(self, seconds: float = 300.0) -> Finished:
        """How it ended; it is killed if that takes too long."""
        found = self.poll(seconds)
        if found is None:
            os.kill(self.process, signal.SIGKILL)
            found = self.poll(60)
        assert found is not None
        return found

    def _told(self, code: int) -> Finished:
        counts = self.log.with_suffix(".json")
        reached = json.loads(counts.read_text()) if counts.is_file() else {}
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        for path in (self.log, counts):
            path.unlink(missing_ok=True)
        return Finished(code, text, time.monotonic() - self.began, reached)


def _command(argv: Sequence[str], fault: str | None, log: Path) -> None:
    """Run a command in this process, a fork, and end it with the command's exit code."""
    from ddkit import cli
    from ddkit.core import faults

    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.close(opened)
    os.chdir(log.parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts with `&`
    if fault is not None:
        os.environ[faults.VARIABLE] = fault  # for worker processes
    faults.arm(fault)
    sys.argv = ["ddkit", *argv]
    code: Any = 98
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    log.with_suffix(".json").write_text(json.dumps(faults.reached()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
