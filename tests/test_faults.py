"""Wherever a process is killed or the disk is full: a file is old or new, and the same command makes the same set."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddkit
from ddkit.core import faults
from ddkit.core.files import atomic_file, is_abandoned, write_bytes
from ddkit.errors import DiskError, OptionError
from ddkit.format.verification import directory_problems
from ddkit.pipeline import distill

OF_FILES = ("write", "written", "synced", "renamed", "published")


@pytest.fixture
def armed():
    """Sets a fault of this process; afterwards there is none."""
    yield faults.arm
    faults.arm(None)


@given(st.sampled_from(sorted(faults.POINTS)), st.integers(1, 10**6), st.booleans())
def test_a_fault_is_read_as_it_is_written(point, number, full):
    assert faults.Fault.parse(f"{point}:{number}{':full' if full else ''}") == faults.Fault(point, number, full)


@pytest.mark.parametrize("text", ["", "write", "write:0", "write:-1", "write:x", "wrote:1", "write:1:half"])
def test_a_misspelled_fault_is_told(text, armed, tmp_path):
    armed(text)
    with pytest.raises(OptionError, match="DDKIT_FAULT"):
        write_bytes(tmp_path / "x", b"new")


@pytest.mark.parametrize("point", OF_FILES)
def test_a_killed_process_leaves_the_old_file_or_the_new_one(point, tmp_path):
    """And a temporary file, which the next process that writes the file removes. The fault is in the second write."""
    old, new = b"old" * 1000, b"new" * 1000
    program = f"""
from pathlib import Path
from ddkit.core.files import write_bytes
for data in ({old!r}, {new!r}):
    write_bytes(Path("x"), data)
"""
    environment = os.environ | {"DDKIT_FAULT": f"{point}:2", "PYTHONPATH": str(Path(ddkit.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "x").read_bytes() == (new if point in ("renamed", "published") else old)
    left = [path for path in tmp_path.iterdir() if path.name != "x"]
    assert len(left) == (point in ("written", "synced")) and all(is_abandoned(path) for path in left)
    write_bytes(tmp_path / "x", new)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("point", OF_FILES)
def test_a_full_disk_leaves_the_old_file_or_the_new_one(point, tmp_path, armed):
    write_bytes(tmp_path / "x", b"old")
    armed(f"{point}:1:full")
    with pytest.raises(DiskError, match="No space left on device"):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == (b"new" if point in ("renamed", "published") else b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and faults.reached()[point] == 1
    write_bytes(tmp_path / "x", b"newer")  # a fault is met once
    assert (tmp_path / "x").read_bytes() == b"newer"


@pytest.fixture
def options(teacher):
    return {"data": "digits", "method": "random", "protocol": "demo", "views": 4, "teacher": teacher, "workers": 1}


def test_a_set_that_found_the_disk_full_at_any_point_becomes_the_same_set(options, random_set, tmp_path, armed):
    armed("write:1000000")
    whole = distill(tmp_path / "whole", ipc=2, **options)
    counts = faults.reached()
    assert whole.content == random_set.content and counts["write"] > 9
    assert len({counts[point] for point in OF_FILES}) == 1
    for i, number in enumerate((1, counts["write"] // 2, counts["write"])):
        out = tmp_path / f"full{i}"
        armed(f"{OF_FILES[i]}:{number}:full")
        with pytest.raises(DiskError, match="make room and run the same command again"):
            distill(out, ipc=2, **options)
        armed(None)
        assert not (out / "ddkit.json").exists() or directory_problems(out) == []
        assert distill(out, ipc=2, **options).content == whole.content
        assert not list(tmp_path.rglob(".*.tmp"))


def test_a_killed_command_is_continued(options, random_set, tmp_path):
    argv = [sys.executable, "-m", "ddkit", "distill", "set", "--ipc", "2", "--teacher", options["teacher"], "--quiet"]
    argv += ["--data", "digits", "--method", "random", "--protocol", "demo", "--views", "4", "--workers", "1"]
    environment = os.environ | {"DDKIT_FAULT": "synced:9", "PYTHONPATH": str(Path(ddkit.__file__).parents[1])}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "set" / "ddkit.json").exists()
    assert len(list(tmp_path.rglob(".*.tmp"))) == 1
    assert distill(tmp_path / "set", ipc=2, **options).content == random_set.content
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_push_that_breaks_off_between_any_two_requests_is_repeated(hub, random_set, tmp_path, armed):
    """After every request `main` holds no shard that its manifest does not list; the last push sends the rest."""
    held, listed = [], []

    def look(hub):
        for repo in hub.repos.values():
            held.append(sorted(path for path in repo.files() if path.endswith(".tar")))
            listed.append(sorted(path for path in repo.files() if path == "ddkit.json"))

    hub.watch = look
    copy = shutil.copytree(random_set.root, tmp_path / "set")
    broken, number, point = 0, 1, "request"
    while number < 100:
        armed(f"{point}:{number}:full")
        try:
            ddkit.push(copy, "lab/set", license="mit")
            break
        except DiskError:
            broken += 1
            number, point = (number, "answer") if point == "request" else (number + 1, "request")
    assert broken >= 10 and all(bool(shards) == bool(manifest) for shards, manifest in zip(held, listed))
    armed(None)
    assert ddkit.pull("lab/set", tmp_path / "pulled").content == random_set.content


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_what_is_pulled_is_on_the_disk_before_it_has_its_name(hub, random_set, tmp_path, monkeypatch):
    """Every file that gets its final name was synced, and its folder is synced before the manifest gets its name."""
    ddkit.push(shutil.copytree(random_set.root, tmp_path / "set"), "lab/set", license="mit")
    out, seen = tmp_path / "pulled", []
    sync, replace = os.fsync, os.replace

    def fsync(number):
        seen.append(("fsync", os.readlink(f"/proc/self/fd/{number}")))
        sync(number)

    def rename(old, new):
        seen.append(("rename", str(old), str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    ddkit.pull("lab/set", out)
    named = [i for i, event in enumerate(seen) if event[0] == "rename" and Path(event[2]).is_relative_to(out)]
    assert {Path(seen[i][2]) for i in named} >= {out / path for path in (*random_set.files(), "ddkit.json")}
    for i in named:
        assert seen[i - 1] == ("fsync", seen[i][1]) and seen[i + 1] == ("fsync", str(Path(seen[i][2]).parent))
    assert Path(seen[named[-1]][2]).name == "ddkit.json"


def test_a_file_whose_block_fails_is_not_published(tmp_path, armed):
    armed("write:1000000")
    with pytest.raises(ValueError, match="mine"), atomic_file(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == [] and "written" not in faults.reached()
