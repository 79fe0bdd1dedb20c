"""Goal 10: push and pull under seeded faults of a Hub on loopback."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trust.bench import CLASSES, Bench
from trust.goals import Goal, Outcome

REPO = "lab/set"
WAYS = ("lfs", "xet")


def _sets(bench: Bench) -> Path:
    """Two sets, the second published over the first."""
    teacher = bench.teacher()

    def make(folder: Path) -> None:
        import ddkit

        toy = {"data": "digits", "classes": ",".join(map(str, range(CLASSES))), "teacher": str(teacher), "workers": 1}
        ddkit.distill(folder / "a", method="random", protocol="demo", ipc=2, views=3, prefixes=(1, 2), **toy)
        ddkit.distill(folder / "b", method="random", protocol="demo", ipc=3, views=4, seed=1, **toy)

    bench.made("hub", make)
    return bench.folder("hub")


def _attempt(run: Callable[[], Any]) -> str:
    """`done`, or the error's one line; anything else is a defect and is raised."""
    from ddkit.errors import HubAccess, HubError

    try:
        run()
    except (HubError, HubAccess) as told:
        assert "\n" not in str(told), told
        return str(told)
    return "done"


def faults_trial(bench: Bench, trial: int) -> Outcome:
    """One schedule, by LFS or Xet: publish a set over an older one, again without faults; pull likewise."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    import ddkit
    from ddkit.format.manifest_file import read_manifest

    seed, way = trial // len(WAYS), WAYS[trial % len(WAYS)]
    sets, ask = _sets(bench), bench.hub.ask
    huggingface_hub.constants.HF_HUB_DISABLE_XET = way == "lfs"
    _http.time = SimpleNamespace(sleep=lambda seconds: None, time=time.time)  # the client's own waits are left out
    shutil.rmtree(bench.work / "hf" / "hub", ignore_errors=True)
    ours, old = (shutil.copytree(sets / name, bench.scratch / name) for name in ("b", "a"))
    ddkit.push(old, REPO, license="mit")
    began = time.perf_counter()
    faults = ask("plan", seed, way == "xet")
    pushed = _attempt(lambda: ddkit.push(ours, REPO, license="mit"))
    ask("plan", None)
    again = _attempt(lambda: ddkit.push(ours, REPO, license="mit"))
    ask("traffic")
    third = _attempt(lambda: ddkit.push(ours, REPO, license="mit"))
    sent = ask("traffic")
    ask("plan", seed, way == "xet")
    got = bench.scratch / "got"
    pulled = _attempt(lambda: ddkit.pull(REPO, got))
    ask("plan", None)
    if pulled != "done":
        _attempt(lambda: ddkit.pull(REPO, got))
    wrong = [*ask("violations"), *(told for told in (again, third) if told != "done")]
    wrong += [f"a push of what is there sent {sent} bytes"] if sent else []
    if not got.is_dir() or read_manifest(got).content != read_manifest(sets / "b").content:
        wrong.append("pulled another content")
    counts = {way: 1, "faults": len(faults), "pushed at once": pushed == "done", "pulled at once": pulled == "done"}
    longest = {"longest": round(time.perf_counter() - began, 2)}
    return Outcome(tuple(f"{way}, seed {seed}, {faults}: {what}" for what in wrong), counts, longest)


GOALS = (
    Goal(
        10,
        "flaky Hub",
        "push over an older set and pull, each under 1 to 6 seeded faults (429, 5xx, resets, stalls, wrong hashes, "
        "stale parents, expired tokens, lost answers) by LFS and by Xet; `main` is checked after every request",
        200,
        faults_trial,
        lambda found: (
            f"{found['lfs']} schedules by LFS and {found['xet']} by Xet with {found['faults']} faults: pushed at once "
            f"{found['pushed at once']}, pulled at once {found['pulled at once']}, else one line and done when "
            f"repeated; `main` half or another content {found.wrong} times; longest {found['longest']} s"
        ),
    ),
)
