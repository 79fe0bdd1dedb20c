"""Push and pull under seeded faults of a Hub on loopback: success or one clear line, `main` never half, then complete.

    python benchmarks/hub_faults.py [--trials 100] [--way lfs|xet|both] [--out FILE.json]

Each trial publishes a set over an older one under a schedule of 1 to 6 faults (429, 5xx, resets, stalls, wrong hashes,
stale parents, expired tokens, lost answers), then pushes again without faults, then pulls under the same schedule and
again without. After every request `main` must hold one set or the other, whole. Waits before retries are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import loopback

HUB = loopback.Hub()
FOLDER = Path(tempfile.mkdtemp(prefix="hub-faults-"))
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": str(FOLDER / "hf"), "HF_TOKEN": "write-token"}
os.environ |= {"DDKIT_CACHE": str(FOLDER / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}

import huggingface_hub  # noqa: E402
from huggingface_hub.utils import _http  # noqa: E402

import ddkit  # noqa: E402
import ddkit.hub.retries as retries  # noqa: E402
from ddkit.core.console import note, set_quiet  # noqa: E402
from ddkit.core.device import versions  # noqa: E402
from ddkit.core.files import write_bytes  # noqa: E402
from ddkit.errors import HubAccess, HubError  # noqa: E402
from ddkit.format.manifest_file import parse_manifest, read_manifest  # noqa: E402
from ddkit.testing import untrained_teacher  # noqa: E402

REPO = "lab/set"


def half(hub: loopback.Hub) -> None:
    """Raises where `main` names a file of a set that is not there, or holds one that no manifest lists."""
    for repo in hub.repos.values():
        files = repo.files()
        held = {path for path in files if path.endswith((".tar", ".rows"))}
        listed = set[str]()
        if "ddkit.json" in files:
            listed = set(parse_manifest(repo.read("ddkit.json"), Path("ddkit.json")).files())
        assert held == listed, f"main holds {sorted(held ^ listed)[:3]} beside its manifest"


def attempt(run: Any) -> str:
    """`done`, or the error's one line; anything else is a defect and is raised."""
    try:
        run()
    except (HubError, HubAccess) as told:
        assert "\n" not in str(told), told
        return str(told)
    return "done"


def trial(seed: int, way: str, old: Path, new: Path) -> dict[str, Any]:
    """One schedule; returns what push and pull said, and what was wrong."""
    huggingface_hub.constants.HF_HUB_DISABLE_XET = way == "lfs"
    HUB.reset()
    HUB.stall_s = 0.3
    ours = Path(shutil.copytree(new, FOLDER / "ours", dirs_exist_ok=True))
    ddkit.push(shutil.copytree(old, FOLDER / "old", dirs_exist_ok=True), REPO, license="mit")
    HUB.watch = half
    began = time.perf_counter()
    HUB.faults = loopback.schedule(seed, xet=way == "xet")
    faults = [f"{fault.kind} at {fault.on}" for fault in HUB.faults]
    pushed = attempt(lambda: ddkit.push(ours, REPO, license="mit"))
    HUB.faults = []
    again = attempt(lambda: ddkit.push(ours, REPO, license="mit"))
    HUB.faults = loopback.schedule(seed, xet=way == "xet")
    got = FOLDER / "got"
    pulled = attempt(lambda: ddkit.pull(REPO, got))
    HUB.faults = []
    if pulled != "done":
        attempt(lambda: ddkit.pull(REPO, got))
    whole = read_manifest(got).content == read_manifest(new).content
    wrong = [*HUB.violations, *([] if again == "done" else [again]), *([] if whole else ["pulled another content"])]
    seconds = round(time.perf_counter() - began, 2)
    for folder in ("ours", "old", "got", "got.work", "hf/hub"):
        shutil.rmtree(FOLDER / folder, ignore_errors=True)
    return {"seed": seed, "way": way, "faults": faults, "push": pushed, "pull": pulled, "wrong": wrong, "s": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--way", choices=("lfs", "xet", "both"), default="both")
    parser.add_argument("--out")
    args = parser.parse_args()
    HUB.start()
    set_quiet(True)
    retries.PAUSES_S = (0.0,) * len(retries.PAUSES_S)
    _http.time.sleep = lambda seconds: None
    made = {"data": "digits", "method": "random", "protocol": "demo", "workers": 1}
    made["teacher"] = str(untrained_teacher(FOLDER / "t.safetensors"))
    ddkit.distill(FOLDER / "a", ipc=2, views=3, prefixes=(1, 2), **made)
    ddkit.distill(FOLDER / "b", ipc=3, views=4, seed=1, **made)
    set_quiet(False)
    results = []
    for way in ("lfs", "xet") if args.way == "both" else (args.way,):
        set_quiet(True)
        mine = [trial(seed, way, FOLDER / "a", FOLDER / "b") for seed in range(args.first, args.first + args.trials)]
        set_quiet(False)
        told = sum(r["push"] != "done" for r in mine)
        wrong = [r for r in mine if r["wrong"]]
        note(
            f"{way}: {len(mine)} schedules, push done at once {len(mine) - told}, one clear line {told}, pull done at "
            f"once {sum(r['pull'] == 'done' for r in mine)}, wrong {len(wrong)}, longest {max(r['s'] for r in mine)} s"
        )
        for r in wrong:
            note(f"  seed {r['seed']}: {r['faults']}: {r['wrong'][0].strip().splitlines()[-1]}")
        results += mine
    if args.out:
        write_bytes(Path(args.out), (json.dumps({"versions": versions(), "trials": results}, indent=1) + "\n").encode())
    shutil.rmtree(FOLDER, ignore_errors=True)
    HUB.stop()
    return int(any(r["wrong"] for r in results))


if __name__ == "__main__":
    sys.exit(main())
