"""Labelling: the relabelling of SRe2L, CDA and CUDD, rebuilt from its description, beside ddkit's on the same views.

    python benchmarks/relabel.py --data ../shared/data/tinyimagenet100 \\
        --teacher ../shared/teachers/tinyimagenet100-convnet4.safetensors

Theirs (fkd.py): for each view, Pillow decodes the image, crops and resizes it; CutMix on the normalised batch, the
teacher in evaluation mode, logits in half precision, a file a batch. ddkit reads these files as `import --labels` does
and labels the same crops with the same teacher: decoded once, cropped and mixed as bytes, a unit of 32 rows a file.
Both take the encoded images from memory and run in one process on the same threads, in turns. Says whether the integers
and the pixels are the same, how much the logits differ, and views a second as a ratio, with and without the time in the
teacher; writes benchmarks/results/relabel.json.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fkd
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as pil

from ddkit.core.device import hardware, threads, versions
from ddkit.core.worker_state import STATE
from ddkit.format.codecs.interface import centred
from ddkit.format.entries import Origin
from ddkit.format.resampling import resample
from ddkit.format.views import draw
from ddkit.labelling.encoded import EncodedRows, plan_shards, save_encoded
from ddkit.labelling.labels import Computed, Labelling, label_jobs, label_views, shard_pixels
from ddkit.labelling.published import PublishedViews
from ddkit.sources.images import open_source
from ddkit.sources.published_labels import open_published
from ddkit.specs import ViewSpec
from ddkit.teachers.teacher import Precision, Teacher


def encoded(data: str, count: int, side: int) -> tuple[list[bytes], np.ndarray]:
    """Images spread over the classes as JPEGs or PNGs of `side` pixels, and their classes."""
    source = open_source(data)
    chosen = np.argsort(source.labels, kind="stable")[np.linspace(0, len(source) - 1, count).astype(int)]
    images = []
    for i in chosen:
        raw = source.encoded(int(i))
        image = Image.fromarray(raw.transpose(1, 2, 0)) if isinstance(raw, np.ndarray) else Image.open(io.BytesIO(raw))
        buffer = io.BytesIO()
        image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images, source.labels[chosen]


def same_pixels(images: list[bytes], boxes: np.ndarray, size: int) -> tuple[float, int]:
    """(share of equal bytes, largest difference) of crops resampled by Pillow and by ddkit. boxes: int [n,4]."""
    equal, largest = [], 0
    for image, box in zip(images, boxes):
        with Image.open(io.BytesIO(image)) as opened:
            whole = opened.convert("RGB")
        theirs = np.asarray(pil.resized_crop(whole, *(int(b) for b in box), [size, size])).transpose(2, 0, 1)
        ours = resample(torch.from_numpy(np.array(whole).transpose(2, 0, 1)), box, size).numpy()
        equal.append(float((theirs == ours).mean()))
        largest = max(largest, int(np.abs(theirs.astype(int) - ours).max()))
    return statistics.mean(equal), largest


class TimedTeacher(Teacher):
    """A teacher that adds up the seconds of its forward passes, all instances together."""

    seconds = 0.0

    def logits(self, inputs: torch.Tensor, precision: Precision = "float32") -> torch.Tensor:
        began = time.perf_counter()
        found = super().logits(inputs, precision)
        TimedTeacher.seconds += time.perf_counter() - began
        return found


@dataclass(frozen=True)
class TimedLabelling(Labelling):
    """ddkit's labelling with that teacher."""

    def open_teacher(self) -> Teacher:
        return TimedTeacher.shared(self.teacher, torch.device(self.device), self.order)


class Comparison:
    """Both on the same images: one round labels `views` views of each."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.teacher = TimedTeacher.load(args.teacher, torch.device("cpu"))
        self.size = self.teacher.spec.image_size
        self.images, self.classes = encoded(args.data, args.images, self.size)
        self.how = TimedLabelling(
            out=str(work / "set"), work=str(work / "set.work"), teacher=args.teacher, teacher_hash="", order=None,
            policy=ViewSpec(count=args.views), seed=0, size=self.size, image_codec="png", codec="fp16", patches=1,
            groups=None, device="cpu",
        )  # fmt: skip
        (self.shard,) = plan_shards(size=self.size, rows=len(self.images), first=0, prefixes=(1,), key="benchmark")
        origins = [Origin(kind="import", rows=(str(i),)) for i in range(len(self.images))]
        rows = EncodedRows(self.images, self.classes, np.zeros(len(self.images), int), origins)
        save_encoded(self.how.store, self.shard, rows)

    def theirs(self, number: int) -> tuple[dict[tuple[int, int], fkd.Published], float]:
        """(what the files of a round say, seconds)."""
        root, args = self.work / f"round{number}", self.args
        began = time.perf_counter()
        said = fkd.relabel(root, self.images, self.teacher, epochs=args.views, batch=args.batch, seed=number)
        return said, time.perf_counter() - began

    def ours(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """(boxes, their logits, our logits of the same views, our seconds), each [n,V,...]."""
        labels = open_published(str(self.work / f"round{number}"), images=len(self.images), seed=number)
        count, n = self.args.views, len(self.images)
        views, stored = PublishedViews(self.how, labels, np.arange(n), self.size).read(range(count), 0, n)
        rows, view_indices = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(count), indexing="ij"))
        STATE.drop("decoded shard", "encoded shard")
        began = time.perf_counter()
        draw(self.how.policy, seed=number, first=0, rows=n, height=self.size, width=self.size, size=self.size)
        pixels = shard_pixels(self.how, self.shard)
        logits = label_views(self.how, self.how.open_teacher(), pixels, views, rows, view_indices).reshape(n, count, -1)
        for job in label_jobs(self.how, [self.shard]):
            job.save(Computed(centred(logits[job.start : job.stop]), None, None, 0.0))
        return views.box, stored.astype(np.float32), logits, time.perf_counter() - began


def speeds(seconds: list[tuple[float, float]], views: int) -> dict[str, Any]:
    """Views a second of both, and the ratio of each round. seconds: (theirs, ours) of each round of `views` views."""
    ratios = sorted(theirs / ours for theirs, ours in seconds)
    return {
        "views_a_second": {
            "theirs": views / statistics.median(theirs for theirs, _ in seconds),
            "ours": views / statistics.median(ours for _, ours in seconds),
        },
        "ratio": {"median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1], "rounds": len(ratios)},
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--views", type=int, default=4, help="views per image in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="of both")
    parser.add_argument("--out", default="benchmarks/results/relabel.json")
    args = parser.parse_args(argv)
    same, seconds, beside, boxes, logits = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder, threads(args.threads):
        both = Comparison(args, Path(folder))
        for number in range(args.rounds):  # in turns: a busy machine slows both
            start = TimedTeacher.seconds
            said, theirs = both.theirs(number)
            middle = TimedTeacher.seconds
            box, stored, labelled, ours = both.ours(number)
            seconds.append((theirs, ours))
            beside.append((theirs - (middle - start), ours - (TimedTeacher.seconds - middle)))
            wanted = np.array([[said[i, v].box for v in range(args.views)] for i in range(len(box))])
            same.append(float((wanted == box).mean()))
            boxes.append(box[:, 0])
            logits.append((stored.reshape(-1, stored.shape[-1]), labelled.reshape(-1, stored.shape[-1])))
        equal, largest = same_pixels(both.images, boxes[-1], both.size)
    stored, labelled = (np.concatenate(part) for part in zip(*logits))
    rounded = labelled.astype(np.float16).astype(np.float32)
    views = args.images * args.views
    report: dict[str, Any] = {
        "command": f"python benchmarks/relabel.py --data DATA --teacher TEACHER --images {args.images} --views "
        f"{args.views} --rounds {args.rounds} --batch {args.batch}",
        "teacher": both.teacher.spec.arch, "size": both.size, "views": views * args.rounds,
        "hardware": hardware(torch.device("cpu")), "threads": args.threads, "versions": versions(),
        "same_integers": statistics.mean(same),
        "pixels": {"equal": equal, "largest_difference": largest},
        "logits": {
            "largest_difference": float(np.abs(stored - labelled).max()),
            "mean_difference": float(np.abs(stored - labelled).mean()),
            "equal_in_half_precision": float((stored == rounded).mean()),
            "spread": float(stored.std()),
        },
        "top1_agreement": float((stored.argmax(1) == labelled.argmax(1)).mean()),
        "whole": speeds(seconds, views), "without_the_teacher": speeds(beside, views),
    }  # fmt: skip
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return report


if __name__ == "__main__":
    print(json.dumps(main(), indent=2, sort_keys=True))  # noqa: T201
