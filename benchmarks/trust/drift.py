"""Goal 15: another machine, and sets of earlier versions."""

from __future__ import annotations

import inspect
from pathlib import Path

from trust.bench import CLASSES, Bench
from trust.goals import Goal, Outcome


def golden_sets() -> list[Path]:
    """Sets that were committed as earlier versions made them."""
    import test_golden

    return sorted(path.parent for path in test_golden.make.HERE.rglob("ddkit.json"))


def _readable(root: Path) -> list[str]:
    import ddkit
    from ddkit.format.verification import directory_problems

    problems = directory_problems(root)
    rows = sum(len(labels) for _, _, labels in ddkit.ReplayLoader(root, batch_size=8, device="cpu"))
    if rows != ddkit.inspect(root).rows():
        problems.append(f"{rows} rows are replayed")
    return [f"{root.name}: {problem}" for problem in problems]


def drift_trial(bench: Bench, trial: int) -> Outcome:
    """The committed sets are read and replayed; a run that goes on under another device class records both."""
    import pytest
    import test_golden

    if trial == 0:
        wrong = [line for root in golden_sets() for line in _readable(root)]
        tests = [
            test for name, test in vars(test_golden).items()
            if name.startswith("test_an_old_set") and not inspect.signature(test).parameters
        ]  # fmt: skip
        for test in tests:
            test()
        return Outcome(tuple(wrong), {"sets": len(golden_sets()), "tests": len(tests)})
    from ddkit.format.verification import directory_problems
    from ddkit.labelling import labels
    from ddkit.pipeline import distill, synthesis_units

    toy = {"data": "digits", "classes": ",".join(map(str, range(CLASSES))), "teacher": str(bench.teacher())}
    toy |= {"method": "random", "protocol": "demo", "views": 2, "workers": 1}
    out = bench.scratch / "set"
    before = distill(out, ipc=1, **toy).devices
    with pytest.MonkeyPatch.context() as patch:
        for module in (labels, synthesis_units):
            patch.setattr(module, "device_class", lambda device: "another machine")
        after = distill(out, ipc=2, **toy).devices
    wrong = directory_problems(out)
    if set(after) != {*before, "another machine"}:
        wrong.append(f"devices {after}, before {before}")
    return Outcome(tuple(wrong), {"resumed": 1})


GOALS = (
    Goal(
        15,
        "drift",
        "sets that earlier versions made (`tests/golden`); a run that goes on under another device class",
        2,
        drift_trial,
        lambda found: (
            f"{found['sets']} committed sets read, verified and replayed with the sums of then; both device classes "
            f"recorded {found['resumed']} times"
        ),
    ),
)
