"""The seven commands that are interrupted, each on the toy source: how it is run, and whether its output is right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trust.bench import CLASSES, SIDE, Bench

TOY = f"--data digits --classes {','.join(map(str, range(CLASSES)))}"
REPO = "lab/toy"


@dataclass(frozen=True)
class Scenario:
    """A command whose output is compared with that of an undisturbed run.

    Attributes:
        name: Its name.
        argv: Its arguments, given the bench and its output.
        state: What its output is, as JSON: equal after every interruption. None where there is none yet.
        prepare: Called before each trial.
        published: Paths below its output that other programs may read while it is made.
    """

    name: str
    argv: Callable[[Bench, Path], list[str]]
    state: Callable[[Bench, Path], Any]
    prepare: Callable[[Bench], None] = lambda bench: None
    published: tuple[str, ...] = ("data/*", "images/*", "ddkit.json")

    def unlike(self, bench: Bench, out: Path, whole: Path) -> list[str]:
        """Published files of `out` that are not those of an undisturbed run.

        Args:
            bench: The bench.
            out: The output of an interrupted run.
            whole: The output of an undisturbed run.
        """
        found = [path for pattern in self.published for path in out.glob(pattern) if not path.name.startswith(".")]
        files = [path for path in found if path.suffix in (".tar", ".rows")]
        wrong = [f"{path.name} differs" for path in files if path.read_bytes() != _same(out, whole, path)]
        if len(files) < len(found) and (now := self.state(bench, out)) != (then := self.state(bench, whole)):
            wrong.append(f"{now} instead of {then}")
        return wrong


def _same(out: Path, whole: Path, path: Path) -> bytes:
    there = whole / path.relative_to(out)
    return there.read_bytes() if there.is_file() else b""


def set_state(bench: Bench, out: Path) -> Any:
    """The content of a set, and the first problem that `verify` finds in it."""
    from ddkit.errors import DdkitError
    from ddkit.format.manifest_file import read_manifest
    from ddkit.format.verification import directory_problems

    if not (out / "ddkit.json").exists():
        return None
    try:
        return [read_manifest(out).content, *directory_problems(out)[:1]]
    except DdkitError as error:
        return [str(error)]


def weights(bench: Bench, out: Path) -> Any:
    """The hash of the weights of a checkpoint."""
    from ddkit.networks.checkpoints import load_checkpoint

    if not (out / "net.safetensors").exists():
        return None
    try:
        return bench.forked(lambda: load_checkpoint(out / "net.safetensors")[1].hash)
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1]


def pushed(bench: Bench, out: Path) -> Any:
    """The content on main and its tags; and the content of what was pushed."""
    try:
        content, tags = bench.hub.ask("sets", REPO)
    except RuntimeError:
        return None
    return [content, tags, set_state(bench, out)]


def _distil(method: str, workers: int = 1) -> Callable[[Bench, Path], list[str]]:
    options = {
        "rded": "--method rded --prefixes 1,3 --set pool=4 --set factor=2 --protocol rded --views 4",
        "cudd": "--method cudd --prefixes 1,2 --set steps=2 --set student.epochs=2 --protocol common --views 3",
    }[method]
    return lambda bench, out: [
        *("distill", str(out), *TOY.split(), *options.split(), "--teacher", str(bench.teacher())),
        *("--workers", str(workers), "--quiet"),
    ]


def _label(bench: Bench) -> list[str]:
    views = ("--protocol", "demo", "--views", "3", "--workers", "1", "--quiet")
    return ["--teacher", str(bench.teacher()), *views]


def _images(bench: Bench) -> Path:
    """Finished images in class folders."""

    def make(folder: Path) -> None:
        import numpy as np
        from PIL import Image

        draw = np.random.default_rng(0)
        for label in range(CLASSES):
            (folder / "images" / str(label)).mkdir(parents=True)
            for i in range(2):
                pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / str(label) / f"{i}.png")

    bench.made("images", make)
    return bench.folder("images") / "images"


def _teach(bench: Bench, out: Path) -> list[str]:
    recipe = str(bench.teacher().with_name("quick.toml"))
    options = f"--classes 0,1 --size {SIDE} --arch convnet3 --device cpu --quiet"
    return ["teach", str(out / "net.safetensors"), "--data", "digits", "--recipe", recipe, *options.split()]


def _fill_hub(bench: Bench) -> None:
    """The Hub holds the toy set, pushed by a fork."""
    copy = shutil.copytree(bench.sets()[0], bench.scratch / "sent", dirs_exist_ok=True)

    def push() -> None:
        import ddkit

        ddkit.push(copy, REPO, license="mit")

    bench.forked(push)


def _push(bench: Bench, out: Path) -> list[str]:
    if not out.exists():
        shutil.copytree(bench.sets()[0], out)
    return ["push", str(out), REPO, "--license", "mit", "--quiet"]


SCENARIOS = (
    Scenario("teach", _teach, weights, published=("net.safetensors",)),
    Scenario("distill rded", _distil("rded"), set_state),
    Scenario("distill cudd", _distil("cudd"), set_state),
    Scenario("relabel", lambda bench, out: ["relabel", str(bench.sets()[0]), str(out), *_label(bench)], set_state),
    Scenario(
        "import",
        lambda bench, out: ["import", str(_images(bench)), str(out), "--method", "mine", *_label(bench)],
        set_state,
    ),
    Scenario(
        "train",
        lambda bench, out: [
            *("train", str(bench.sets()[1]), "--epochs", "6", "--out", str(out / "net.safetensors"), "--quiet")
        ],
        weights,
        published=("net.safetensors",),
    ),
    Scenario("push", _push, pushed, published=("data/*",)),
    Scenario("pull", lambda bench, out: ["pull", REPO, str(out), "--quiet"], set_state, prepare=_fill_hub),
)
IN_TWO_PROCESSES = Scenario("distill rded, two workers", _distil("rded", workers=2), set_state)


def leftovers(out: Path) -> list[str]:
    """Temporary files, locks and states of trainings beside and below an output, once it is finished."""
    hidden = [path for path in out.parent.rglob(".*") if path.suffix in (".tmp", ".lock", ".state")]
    return [str(path.relative_to(out.parent)) for path in hidden]
