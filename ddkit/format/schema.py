"""What a manifest must be like before anybody believes it: types, ranges, names, counts. It may come from anyone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ddkit.core.serialization import from_plain
from ddkit.errors import OptionError, first_few
from ddkit.format.images import LARGEST_PIXELS
from ddkit.format.shards import images_path, shard_path, shard_rows, shard_sizes
from ddkit.specs import Protocol, ViewSpec

LONGEST_TEXT = 10_000  # characters
NAME = re.compile(r"\w[\w.-]{0,199}")  # also part of a file's name: no folders, no control characters
FILE = re.compile(r"(data|images)/train-ipc\d{3,}-\d{5}\.(tar|rows)")
_SHA = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")
_INSTALL = re.compile(r"pip install (-U )?ddkit(\[[\w,-]+\])?(==[\w.]+)?")
_REPO = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_LINK = re.compile(r"https?://\S{1,2000}|[\w./ -]{1,200}")  # an address, or a file of the repository
_ARCH = re.compile(r"[\w.:/@+-]{1,200}")
_STEM = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f]{1,200}")  # a protocol's name, never a path

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and _LINE.fullmatch(value) is not None


def _words(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def _matches(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= LONGEST_TEXT and pattern.fullmatch(value) is not None


def _name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None and ".." not in value


def _sha(value: Any) -> bool:
    return isinstance(value, str) and _SHA.fullmatch(value) is not None


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # False for what is not a number


def _seconds(value: Any) -> bool:
    return _number(value) and value >= 0


def _setting(value: Any) -> bool:
    """A value of a method's settings: a scalar, or a list or table of them."""
    if isinstance(value, list):
        return all(_setting(item) for item in value)
    if isinstance(value, dict):
        return all(_words(key) and _setting(item) for key, item in value.items())
    return value is None or type(value) is bool or _number(value) or _words(value)


def _table(key: Check, item: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())


def _list(item: Check, low: int = 0, high: int = 10**7) -> Check:
    return lambda value: isinstance(value, list) and low <= len(value) <= high and all(item(v) for v in value)


def _plan(value: Any) -> bool:
    """What a method logs of a prefix; the card reads one list of it."""
    return _setting(value) and isinstance(value, dict) and _list(_whole(0, 10**9))(value.get("crops_kept", []))


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _maybe(check: Any) -> Check:
    return lambda value: value is None or _problem(value, check, "") is None


def _one_of(*values: Any) -> Check:
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def _anything(value: Any) -> bool:
    return True


_COUNT, _SIDE = _whole(1, 10**9), _whole(1, math.isqrt(LARGEST_PIXELS))
_VIEW_SIDE = _whole(1, 2048)  # what networks take: a batch of them has to fit into memory
_PERCENT: Check = lambda value: _number(value) and 0 <= value <= 100  # noqa: E731
_BYTES = _whole(1, 10**15)
_FILE_NAME: Check = lambda value: isinstance(value, str) and FILE.fullmatch(value) is not None  # noqa: E731
_PREFIX: Check = lambda value: isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10  # noqa: E731

# A dict lists the keys that must be there (`key?`: may be missing) and leaves others alone; a list has one pattern.
PATTERN: dict[str, Any] = {
    "name": _name,
    "content": _sha,
    "created_by": _table(_text, _text),
    "install": _matches(_INSTALL),
    "repo": _maybe(_matches(_REPO)),
    "license": _maybe({"id": _text, "name": _maybe(_text), "link": _maybe(_matches(_LINK))}),
    "classes": [{"name": _words, "id": _maybe(_text)}],
    "ipc": _COUNT,
    "image": {"size": _SIDE, "mode": _one_of("RGB"), "codec": _one_of("png", "jpg", "webp"), "patches": _COUNT},
    "image_tars": _one_of(True, False),
    "views": {"count": _whole(1, 10**6), "size": _VIEW_SIDE, "scale": _list(_share, 2, 2),
              "ratio": _list(_number, 2, 2), "flip": _share, "mix": _one_of("none", "cutmix", "mixup"),
              "mix_alpha": _number,
              "patches": _one_of("none", "shuffle"), "mix_groups?": _maybe(_list(_whole(0, 10**6))),
              "protocol": _matches(_STEM), "backend": _text},
    "normalisation": {"mean": _list(_number, 3, 3), "std": _list(_number, 3, 3)},
    "eval": {"resize": _SIDE, "crop": _SIDE},
    "labels": {"codec": _name, "temperature": _number,
               "fidelity": {"kl_t1": _number, "kl_t4": _number, "kl_t20": _number, "top1_agreement": _share}},
    "method": _name,
    "recipe": {"name": _maybe(_text), "config": _table(_words, _setting), "dataset": _maybe(_text),
               "classes?": _maybe(_words), "paper": _words},
    "seed": _whole(-(2**63), 2**63),
    "fingerprint": _sha,
    "prefixes": [_COUNT],
    "shard_rows": _COUNT,
    "recommended": {"protocol": _matches(_STEM), "arch": _matches(_ARCH),
                    "definition?": _maybe(_table(_words, _setting))},
    "real_pixels": _one_of("whole", "crops", "initial", "none", "unknown"),
    "log": {"skipped": _list(_words), "plan": _table(_PREFIX, _plan)},
    "cost": {"teach": _seconds, "select": _seconds, "recover": _seconds, "relabel": _seconds, "student": _seconds,
             "device": _text},
    "devices": [_text],
    "source": {"id": _words, "split": _words, "fingerprint": _sha, "holdout": _maybe(_share),
               "revision?": _maybe(_text), "licence?": _maybe(_text)},
    "teachers": [{"arch": _text, "hash": _sha, "accuracy": _maybe(_number), "measured_on?": _maybe(_text),
                  "where": _words}],
    "shards": [{"path": _FILE_NAME, "prefix": _COUNT, "rows": _COUNT, "bytes": _BYTES, "sha256": _sha,
                "rows_sha256": _sha, "images": _maybe({"path": _FILE_NAME, "bytes": _BYTES, "sha256": _sha})}],
    "relabelled_from": _maybe({"name": _text, "content": _sha}),
    "subset_of": _maybe({"repo": _matches(_REPO), "revision": _text, "content": _sha}),
    "results": [{"of": _one_of("this", "random", "equal-bytes", "teacher"), "ipc": _COUNT,
                 "arch": _matches(_ARCH), "protocol": _text, "val": _words,
                 "seeds": [_whole(0, 2**63)],
                 "labels": _one_of("stored", "hard", "online", "relabelled"), "n_sets": _COUNT, "n_students": _COUNT,
                 "mean": _PERCENT, "std": _seconds, "command": _words, "hardware": _words, "total_bytes": _BYTES,
                 "values?": _list(_list(_number)), "seconds?": _seconds,
                 "difference": _maybe({"mean": _number, "low": _number, "high": _number})}],
}  # fmt: skip
_MAY_BE_EMPTY = {"results", "devices"}


def manifest_problem(data: Mapping[str, Any]) -> str | None:
    """The first thing in a manifest that no set can say, or None."""
    if problem := _problem(data, PATTERN, ""):
        return problem
    return _shards_problem(data) or _pixels_problem(data) or _results_problem(data)


def _shards_problem(data: Mapping[str, Any]) -> str | None:
    """Prefixes, and the shards of which they are made."""
    prefixes, shards, classes = data["prefixes"], data["shards"], len(data["classes"])
    if sorted(set(prefixes)) != prefixes or prefixes[-1] != data["ipc"]:
        return f"prefixes are {first_few(prefixes)}, which do not rise to its ipc {data['ipc']}"
    if data["shard_rows"] != shard_rows(data["image"]["size"]):
        return f"shard_rows is {data['shard_rows']}, {shard_rows(data['image']['size'])} at {data['image']['size']} px"
    order = [shard["prefix"] for shard in shards]
    if order != sorted(order) or set(order) != set(prefixes):
        return f"shards are of prefixes {first_few(dict.fromkeys(order))}, not of {first_few(prefixes)}"
    for low, prefix in zip((0, *prefixes), prefixes):
        mine = [shard for shard in shards if shard["prefix"] == prefix]
        due, rows = (prefix - low) * classes, [shard["rows"] for shard in mine]
        if len(mine) != -(-due // data["shard_rows"]) or rows != shard_sizes(due, data["shard_rows"]):
            return f"shards of ipc {prefix} hold {first_few(rows)} rows, {due} are due"
        for number, shard in enumerate(mine):
            path = shard_path(prefix, number)
            if shard["path"] != path:
                return f"shard {number} of ipc {prefix} is {shard['path']}, not {path}"
            if shard["images"] and shard["images"]["path"] != images_path(path):
                return f"the images of {path} are {shard['images']['path']}"
    if data["image_tars"] != all(shard["images"] for shard in shards):
        return f"image_tars is {data['image_tars']}, its shards say otherwise"
    most = largest_row(data["image"]["size"], data["views"]["count"], classes)
    for shard in shards:
        for path, size in ((shard["path"], shard["bytes"]), *((i["path"], i["bytes"]) for i in [shard["images"]] if i)):
            if size > shard["rows"] * most + 20480 or size > LARGEST_SHARD:
                return f"{path} has {size} bytes, more than {shard['rows']} rows can take"
    return None


LARGEST_SHARD = 32 * 2**30  # bytes
LARGEST_ROW = 2**28  # bytes of the labels of one image


def largest_row(side: int, views: int, classes: int) -> int:
    """The most bytes that a row takes in a tar: an image that no codec compresses, its metadata, views and labels."""
    image = 6 * side * side + 2**20
    return image + views * (4 * classes + 300) + 2**16


def _pixels_problem(data: Mapping[str, Any]) -> str | None:
    """The images, the law of their views, and how networks see them."""
    views, patches, classes = data["views"], data["image"]["patches"], len(data["classes"])
    law = {key: views[key] for key in ("scale", "ratio", "flip", "mix", "mix_alpha", "patches", "count")}
    try:
        from_plain(ViewSpec, law, "views")
        if definition := data["recommended"].get("definition"):
            Protocol.from_table(definition, "recommended.definition")
    except OptionError as error:
        return str(error)
    factor = math.isqrt(patches)
    if factor * factor != patches or patches > 256 or data["image"]["size"] % factor:
        return f"image.patches is {patches}, of images of {data['image']['size']} px"
    if views["count"] * classes * 4 > LARGEST_ROW:
        return f"{views['count']} views of {classes} classes are more than a row can hold"
    groups = views.get("mix_groups")
    if groups is not None and len(groups) != classes:
        return f"views.mix_groups is of {len(groups)} classes, not {classes}"
    if min(data["normalisation"]["std"]) <= 0:
        return f"normalisation is {data['normalisation']}"
    if data["eval"]["crop"] != views["size"] or data["eval"]["resize"] < views["size"]:
        return f"eval is {data['eval']}, of views of {views['size']} px"
    if data["labels"]["temperature"] <= 0:
        return f"labels.temperature is {data['labels']['temperature']}"
    return None


def _results_problem(data: Mapping[str, Any]) -> str | None:
    for i, result in enumerate(data["results"]):
        values = result.get("values")
        if result["n_students"] < result["n_sets"] or (values is not None and len(values) != result["n_sets"]):
            return f"results[{i}] is of {result['n_sets']} sets and {result['n_students']} students"
        if result["ipc"] not in data["prefixes"]:
            return f"results[{i}] is of ipc {result['ipc']}, which is no prefix"
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
    return repr(value[:80] if isinstance(value, str | list) else value)[:80]
