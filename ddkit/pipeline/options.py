"""The options of `distill`, filled from the command line or from the keywords of the Python API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ddkit.core.device import has_bfloat16, pick_device
from ddkit.core.serialization import to_plain
from ddkit.distillers import find_distiller
from ddkit.engine import Engine, select_engine
from ddkit.errors import OptionError, unknown
from ddkit.format.codecs.registry import find_codec
from ddkit.format.images import WRITTEN
from ddkit.labelling.budget import BudgetGoal
from ddkit.specs import ClassName, Protocol
from ddkit.teachers.teacher import Precision

HOW = ("rehash", "device", "workers", "engine", "devices", "yes", "overwrite")  # options that do not affect the set


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """The options of `distill`, documented there. None: not given."""

    data: str | None = None
    method: str | None = None
    ipc: int | None = None
    seed: int | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | Protocol | None = None
    views: int | None = None
    size: int | None = None
    classes: str | None = None
    holdout: float | None = None
    teacher: str | None = None
    codec: str | None = None
    budget: str | None = None
    label_precision: str | None = None
    image_format: str | None = None
    prefixes: tuple[int, ...] | None = None
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    skip_bad: bool | None = None
    rehash: bool = False
    device: str = "auto"
    workers: int | None = None
    engine: str | None = None
    devices: str | None = None
    yes: bool = False
    overwrite: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> DistillOptions:
        """Build the options from keywords, and check them.

        Args:
            options: Keyword -> value.

        Raises:
            OptionError: An unknown keyword, or an invalid value.
        """
        known = [f.name for f in fields(cls)]
        if wrong := [name for name in options if name not in known]:
            raise unknown("option of distill:", wrong[0], known)
        given = {name: value for name, value in options.items() if value is not None}
        if "prefixes" in given:
            given["prefixes"] = tuple(given["prefixes"])
        if not given.get("skip_bad", True):
            del given["skip_bad"]
        asked = cls(**given)
        asked._check()
        return asked

    def _check(self) -> None:
        """Raise OptionError for invalid counts and unknown methods, protocols, codecs and image formats."""
        check_counts(
            ipc=self.ipc, views=self.views, size=self.size, seed=self.seed, workers=self.workers, holdout=self.holdout,
            prefixes=self.prefixes,
        )  # fmt: skip
        if self.method is not None:
            find_distiller(self.method)
        if self.protocol is not None:
            Protocol.load(self.protocol)
        if self.codec is not None:
            find_codec(self.codec)
        if self.budget is not None:
            BudgetGoal.parse(self.budget)
            for name, value in (("codec", self.codec), ("image-format", self.image_format)):
                if value is not None:
                    raise OptionError(f"--budget chooses the {name.replace('-', ' ')}; leave --{name} out")
        if self.label_precision is not None:
            check_precision(self.label_precision, self.device, self.codec or "fp16")
        if self.image_format is not None and self.image_format not in WRITTEN:
            raise unknown("image format", self.image_format, WRITTEN)

    def select_engine(self, work: Path) -> Engine:
        """Return the engine that runs the units.

        Args:
            work: The directory OUT.work.

        Raises:
            OptionError: The engine or device is unknown or does not suit the environment.
        """
        device = pick_device(self.device)
        return select_engine(self.engine, device=device, workers=self.workers, devices=self.devices, work=work)

    def decisive(self) -> dict[str, Any]:
        """Return the given options that determine the set, as JSON values.

        Two runs that differ in one of them must not write to the same directory.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in HOW}
        return {name: to_plain(value) for name, value in given.items() if value not in (None, {})}


def check_precision(name: str, device: str, codec: str) -> Precision:
    """Return the precision of labels, checked to be known and available.

    Args:
        name: "float32" or "bfloat16".
        device: "auto" or a torch device name.
        codec: Codec of the labels.

    Raises:
        OptionError: The precision is unknown, the device computes it more slowly than float32, or no labels are stored.
    """
    if name == "float32":
        return "float32"
    if name != "bfloat16":
        raise unknown("label precision", name, ("float32", "bfloat16"))
    where = pick_device(device)
    if not has_bfloat16(where):
        raise OptionError(
            f"--label-precision bfloat16: this {where.type} does not have it; give --label-precision float32"
        )
    if find_codec(codec).FROM_PIXELS:
        raise OptionError(
            "--label-precision bfloat16 is for labels that are stored; codec teacher computes them in float32 when a "
            "student trains; give --label-precision float32"
        )
    return "bfloat16"


def known_codec(name: str, classes: Sequence[ClassName]) -> str:
    """Return the canonical name of a codec, checked to suit the classes.

    Args:
        name: Name of the codec as given.
        classes: The classes of the set.

    Raises:
        OptionError: The codec is unknown, or a parameter of it is too large.
    """
    codec = find_codec(name)
    codec.check(len(classes))
    return codec.name


def check_counts(
    *,
    ipc: Any = None,
    views: Any = None,
    size: Any = None,
    seed: Any = None,
    labels_seed: Any = None,
    workers: Any = None,
    runs: Any = None,
    holdout: float | None = None,
    prefixes: tuple[int, ...] | None = None,
) -> None:
    """Check numeric options, given by option name; None: not given.

    Args:
        ipc: Images per class, a whole number from 1.
        views: Views per image, a whole number from 1.
        size: Side in pixels, a whole number from 1.
        seed: A whole number.
        labels_seed: A whole number.
        workers: Processes, a whole number from 1.
        runs: Students, a whole number from 1.
        holdout: A share between 0 and 1, exclusive.
        prefixes: Increasing whole numbers from 1, none above `ipc`.

    Raises:
        OptionError: A value is not in its range.
    """
    least = {"ipc": "images per class", "views": "views", "size": "pixels", "workers": "processes", "runs": "students"}
    for name, value in {
        "ipc": ipc,
        "views": views,
        "size": size,
        "seed": seed,
        "labels-seed": labels_seed,
        "workers": workers,
        "runs": runs,
    }.items():
        if value is not None and type(value) is not int:
            raise OptionError(f"--{name} is {value!r}; it must be a whole number")
        if value is not None and name in least and value < 1:
            raise OptionError(f"--{name} is {value}; it must be at least 1 ({least[name]})")
    if holdout is not None and not 0 < holdout < 1:
        raise OptionError(f"--holdout is {holdout}; it must be between 0 and 1")
    if prefixes is not None:
        if not prefixes or sorted(set(prefixes)) != list(prefixes) or prefixes[0] < 1:
            raise OptionError(f"--prefixes is {list(prefixes)}; give increasing numbers from 1, such as 5,10,20")
        if ipc is not None and prefixes[-1] > ipc:
            raise OptionError(f"--prefixes ends at {prefixes[-1]}, above --ipc {ipc}; make them agree")
