"""Make the sets of one released version with that version's own code, and record how it replays them.

    git worktree add ../released 9619dd7                                  # the version's last commit: see RELEASES
    PYTHONPATH=../released python tests/golden/make_released.py           # adds released/0.4.0 and its replay

One set of RDED per version, and one of random images per label codec from 0.7.0 on: 4 classes, 1 image of 16 pixels per
class, 8 views. `released.json` has what the version's own loader gave: it must be given for ever. A set that exists is
kept, whatever its version would make now.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import make
import numpy as np

import ddkit

HERE = Path(__file__).parent
SETS, REPLAYS = HERE / "released", HERE / "released.json"
RELEASES = {
    "0.1.0": "7d6a5bf",
    "0.2.0": "bedd7b0",
    "0.3.0": "a6ea61c",
    "0.4.0": "9619dd7",
    "0.4.1": "ec99275",
    "0.5.0": "1233681",
    "0.6.0": "87a2f9f",
    "0.7.0": "ad2d761",
    "0.8.0": "b4de0ab",
    "0.9.0": "f3c9487",
    "0.9.1": "e093308",
    "0.9.2": "dfa9d61",
    "0.9.3": "df18581",
}
CODECS = {"0.7.0": ("int8", "topk:2", "lowrank:3", "lowrank:3:i4+top1", "sampled:20", "teacher")}
CLASSES, SIZE, VIEWS, BATCH, EPOCHS = ("0", "1", "2", "3"), 16, 8, 3, 2


def replay(set_: Path) -> dict[str, Any]:
    """What a loader gives: all views, their logits, and the labels of the batches of the first epochs.

    Stored labels decode to the same bits everywhere; those of codec `teacher` are computed, so numbers are kept too.
    """
    loader = ddkit.ReplayLoader(set_, batch_size=BATCH, device="cpu", temperature=1.0)
    seen = [loader.view(row, view) for row in range(len(CLASSES)) for view in range(VIEWS)]
    logits = [np.asarray(logits, np.float32) for _, logits in seen]
    return {
        "labels": [[labels.tolist() for _, _, labels in loader] for _ in range(EPOCHS)],
        "pixels": hashlib.sha256(b"".join(pixels.astype(np.uint8).tobytes() for pixels, _ in seen)).hexdigest(),
        "logits": hashlib.sha256(np.stack(logits).tobytes()).hexdigest(),
        "first_logits": [[round(float(x), 5) for x in row] for row in logits[::VIEWS]],
    }


def make_sets(version: str, work: Path) -> None:
    """Make the sets of this version that do not exist yet, and record their replay."""
    known = json.loads(REPLAYS.read_text()) if REPLAYS.exists() else {}
    common: dict[str, Any] = {"data": "digits", "classes": ",".join(CLASSES), "ipc": 1, "size": SIZE, "views": VIEWS}
    common |= {"teacher": make.golden_teacher(work / "digits.safetensors", CLASSES, size=SIZE), "workers": 1}
    sets = {version: {"method": "rded", "protocol": "rded", "settings": {"pool": 4, "factor": 2}}}
    for codec in CODECS.get(version, ()):
        sets[f"{version}-{codec.replace(':', '-')}"] = {"method": "random", "protocol": "common", "codec": codec}
    small = make.golden_teacher(work / "small.safetensors", CLASSES, arch="timm:test_efficientnet", size=SIZE)
    for name, options in sets.items():
        if (out := SETS / name).exists():
            continue
        carried = {"teacher": small} if options.get("codec") == "teacher" else {}
        ddkit.distill(work / name, **(common | options | carried))
        out.mkdir(parents=True)
        for path in ("ddkit.json", "labels.safetensors", "teacher.safetensors", "data", "images"):
            if (work / name / path).exists():  # card and preview are not part of a set's content
                (work / name / path).rename(out / path)
        known[name] = {"commit": RELEASES[version], **replay(out)}
    lines = [f"{json.dumps(name)}: {json.dumps(known[name], sort_keys=True)}" for name in sorted(known)]
    REPLAYS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    if ddkit.__version__ not in RELEASES:
        sys.exit(f"ddkit {ddkit.__version__} has no entry in RELEASES; add the version's last commit")
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        make_sets(ddkit.__version__, Path(folder))
