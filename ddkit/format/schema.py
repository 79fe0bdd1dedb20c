"""What a manifest must be like before anybody believes it: types, ranges, names, counts. It may come from anyone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

NAME = re.compile(r"\w[\w.-]{0,199}")  # also part of a file's name: no folders, no control characters
FILE = re.compile(r"(data|images)/train-ipc\d{3,}-\d{5}\.(tar|rows)")
_SHA = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 100_000 and _LINE.fullmatch(value) is not None


def _words(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None and ".." not in value


def _sha(value: Any) -> bool:
    return isinstance(value, str) and _SHA.fullmatch(value) is not None


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _maybe(check: Any) -> Check:
    return lambda value: value is None or _problem(value, check, "") is None


def _one_of(*values: Any) -> Check:
    return lambda value: value in values


def _anything(value: Any) -> bool:
    return True


_COUNT, _SIDE = _whole(1, 10**9), _whole(1, 16384)
_BYTES = _whole(0, 10**15)
_FILE_NAME: Check = lambda value: isinstance(value, str) and FILE.fullmatch(value) is not None  # noqa: E731
_PLAIN: Check = lambda value: isinstance(value, Mapping)  # noqa: E731

# A dict lists the keys that must be there (`key?`: may be missing) and leaves others alone; a list has one pattern.
PATTERN: dict[str, Any] = {
    "name": _name,
    "content": _sha,
    "created_by": _PLAIN,
    "install": _text,
    "repo": _maybe(_text),
    "license": _maybe({"id": _text, "name": _maybe(_text), "link": _maybe(_text)}),
    "classes": [{"name": _words, "id": _maybe(_text)}],
    "ipc": _COUNT,
    "image": {"size": _SIDE, "mode": _one_of("RGB"), "codec": _one_of("png", "jpg", "webp"), "patches": _COUNT},
    "image_tars": _one_of(True, False),
    "views": {"count": _whole(1, 10**6), "size": _SIDE, "scale": [_share], "ratio": [_number], "flip": _share,
              "mix": _text, "patches": _text, "protocol": _text, "backend": _text},
    "normalisation": {"mean": [_number], "std": [_number]},
    "eval": {"resize": _SIDE, "crop": _SIDE},
    "labels": {"codec": _text, "temperature": _number,
               "fidelity": {"kl_t1": _number, "kl_t4": _number, "kl_t20": _number, "top1_agreement": _share}},
    "method": _name,
    "recipe": {"name": _maybe(_text), "config": _PLAIN, "dataset": _maybe(_text), "paper": _words},
    "seed": _whole(-(2**63), 2**63),
    "fingerprint": _text,
    "prefixes": [_COUNT],
    "shard_rows": _COUNT,
    "recommended": {"protocol": _text, "arch": _text},
    "real_pixels": _one_of("whole", "crops", "initial", "none", "unknown"),
    "log": {"skipped": _anything, "plan": _PLAIN},
    "cost": {"teach": _number, "select": _number, "recover": _number, "relabel": _number, "student": _number,
             "device": _text},
    "devices": [_text],
    "source": {"id": _words, "split": _words, "fingerprint": _text, "holdout": _maybe(_share),
               "revision?": _maybe(_text), "licence?": _maybe(_text)},
    "teachers": [{"arch": _text, "hash": _sha, "accuracy": _maybe(_number), "measured_on?": _maybe(_text),
                  "where": _words}],
    "shards": [{"path": _FILE_NAME, "prefix": _COUNT, "rows": _COUNT, "bytes": _BYTES, "sha256": _sha,
                "rows_sha256": _sha, "images": _maybe({"path": _FILE_NAME, "bytes": _BYTES, "sha256": _sha})}],
    "relabelled_from": _maybe({"name": _text, "content": _text}),
    "subset_of": _maybe({"repo": _text, "revision": _text, "content": _text}),
    "results": [{"of": _text, "ipc": _COUNT, "arch": _text, "protocol": _text, "val": _words,
                 "seeds": [_whole(0, 2**63)],
                 "labels": _one_of("stored", "hard", "online", "relabelled"), "n_sets": _COUNT, "n_students": _COUNT,
                 "mean": _number, "std": _number, "command": _words, "hardware": _words, "total_bytes": _BYTES,
                 "difference": _maybe({"mean": _number, "low": _number, "high": _number})}],
}  # fmt: skip
_MAY_BE_EMPTY = {"results", "devices"}


def manifest_problem(data: Mapping[str, Any]) -> str | None:
    """The first thing in a manifest that no set can say, or None."""
    if problem := _problem(data, PATTERN, ""):
        return problem
    prefixes, shards = data["prefixes"], data["shards"]
    if sorted(set(prefixes)) != prefixes or prefixes[-1] != data["ipc"]:
        return f"prefixes are {prefixes}, which do not rise to its ipc {data['ipc']}"
    paths = [shard["path"] for shard in shards] + [s["images"]["path"] for s in shards if s["images"]]
    if len(set(paths)) < len(paths):
        return "shards name one file twice"
    order = [shard["prefix"] for shard in shards]
    if order != sorted(order) or set(order) != set(prefixes):
        return f"shards are of prefixes {order}, not of {prefixes}"
    for prefix in prefixes:
        rows = sum(shard["rows"] for shard in shards if shard["prefix"] <= prefix)
        if rows != prefix * len(data["classes"]):
            return f"shards up to ipc {prefix} hold {rows} rows, {prefix * len(data['classes'])} are due"
    if data["image_tars"] != all(shard["images"] for shard in shards):
        return f"image_tars is {data['image_tars']}, its shards say otherwise"
    if len(data["normalisation"]["mean"]) != 3 or min(data["normalisation"]["std"], default=0) <= 0:
        return f"normalisation is {data['normalisation']}"
    return None


def _problem(value: Any, pattern: Any, where: str) -> str | None:
    if isinstance(pattern, Mapping):
        if not isinstance(value, Mapping):
            return f"{where or 'it'} is no table"
        for key, inner in pattern.items():
            name = key.removesuffix("?")
            if name not in value:
                if key.endswith("?"):
                    continue
                return f"{where}{name} is missing"
            if found := _problem(value[name], inner, f"{where}{name}." if isinstance(inner, Mapping) else where + name):
                return found
        return None
    if isinstance(pattern, list):
        if not isinstance(value, list) or not (value or where in _MAY_BE_EMPTY):
            return f"{where} is {_shown(value)}"
        found_in = (_problem(item, pattern[0], f"{where}[{i}]" + "." * isinstance(pattern[0], Mapping))
                    for i, item in enumerate(value))  # fmt: skip
        return next((found for found in found_in if found), None)
    return None if pattern(value) else f"{where.removesuffix('.')} is {_shown(value)}"


def _shown(value: Any) -> str:
    return repr(value)[:80]
