"""Shared fixtures. Nothing here needs files from outside the checkout: digits and generated images only."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest

from ddkit.core.device import threads, wait_briefly

# Before any library reads them: no cache and no token of the user is used, and the Hub is one of our own on loopback.
_caches = tempfile.TemporaryDirectory()
HUB = loopback.Hub()
HUB.start()
os.environ["DDKIT_CACHE"] = str(Path(_caches.name) / "ddkit")
os.environ["HF_HOME"] = str(Path(_caches.name) / "hf")
os.environ["HF_ENDPOINT"] = HUB.url
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLCONFIGDIR"] = str(Path(_caches.name) / "mpl")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for each of the two processes; tensors are small
wait_briefly()
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(_name, None)

import numpy as np  # noqa: E402
from hostile.fixtures import base, outside, runner  # noqa: E402, F401
from PIL import Image  # noqa: E402

from ddkit.core.console import set_quiet  # noqa: E402
from ddkit.engine.local import stop  # noqa: E402
from ddkit.format.manifest import Manifest  # noqa: E402
from ddkit.pipeline import distill  # noqa: E402
from ddkit.testing import untrained_teacher  # noqa: E402


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it starts in the background; the tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(autouse=True)
def notes_are_on() -> None:
    """A test that runs a command with --quiet switches the notes of its process off."""
    set_quiet(False)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """Two threads of torch, for tests of what is spread over threads."""
    with threads(2):
        yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback.Hub]:
    """The loopback Hub, empty, with the token of `ann` (of the organisation `lab`); nobody waits before a retry."""
    from huggingface_hub.utils import _http

    import ddkit.hub.retries

    HUB.reset()
    HUB.stall_s = 0.3
    monkeypatch.setenv("HF_TOKEN", "write-token")
    monkeypatch.setattr(ddkit.hub.retries, "PAUSES_S", (0.0,) * 5)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    yield HUB
    assert HUB.violations == []


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint for digits with random weights: enough wherever accuracy does not matter."""
    return str(untrained_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors"))


@pytest.fixture(scope="session")
def small_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same at 16 pixels, a quarter of the work, for tests that make images with it."""
    return str(untrained_teacher(tmp_path_factory.mktemp("small") / "teacher.safetensors", size=16))


@pytest.fixture(scope="session")
def rded_set(tmp_path_factory: pytest.TempPathFactory, teacher: str) -> Manifest:
    """RDED on digits: prefixes 1 and 3, 4 patches an image shuffled, CutMix, 5 views. Not to be changed by tests."""
    out = tmp_path_factory.mktemp("sets") / "rded"
    return distill(
        out, data="digits", method="rded", prefixes=(1, 3), settings={"pool": 6, "factor": 2}, protocol="rded",
        views=5, teacher=teacher, workers=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def random_set(tmp_path_factory: pytest.TempPathFactory, teacher: str) -> Manifest:
    """Random digits, IPC 2, protocol demo, 4 views. Not to be changed by tests."""
    out = tmp_path_factory.mktemp("sets") / "random"
    return distill(
        out, data="digits", method="random", ipc=2, protocol="demo", views=4, teacher=teacher, workers=1
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Random images of two classes at 16 pixels: a network is trained on its whole source in seconds."""
    root = tmp_path_factory.mktemp("small_set")
    teacher = str(untrained_teacher(root / "t.safetensors", classes=2, size=16))
    return distill(
        root / "set", data="digits", classes="0,1", method="random", ipc=2, protocol="demo", views=2, teacher=teacher,
        workers=1,
    )  # fmt: skip


def photograph(seed: int, height: int, width: int) -> Image.Image:
    """A smooth coloured picture, so that resizing has something to do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def toy_source(tmp_path: Path) -> Path:
    """A folder of splits of class folders: 3 classes of 16-pixel noise of their own brightness, 12 images and 3."""
    root, rng = tmp_path / "toy", np.random.default_rng(0)
    for split, images in (("train", 12), ("test", 3)):
        for label in range(3):
            (folder := root / split / f"class {label}").mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(64 * label, 64 * label + 128, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of class folders: 3 classes, 6 JPEGs each, of uneven sizes."""
    root = tmp_path / "photos"
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for i in range(6):
            image = photograph(10 * label + i, 40 + 7 * i, 70 - 5 * i)
            image.save(root / name / f"{i}.jpg", quality=92)
    return root


def pytest_sessionfinish():
    """Stop the worker processes while loky can still do so; at the interpreter's exit it prints an error."""
    stop(kill=True)
