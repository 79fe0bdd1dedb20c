"""The format of a row: checks of its tensors and metadata before they are used."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddkit.errors import IntegrityError, OptionError
from ddkit.format.codecs.interface import Codec, Layout
from ddkit.format.codecs.registry import find_codec
from ddkit.format.consistency import LARGEST_ROW
from ddkit.format.entries import FORMAT, RowMetadata
from ddkit.format.manifest import Manifest
from ddkit.format.views import UNMIXED, Views
from ddkit.format.views_member import LARGEST_HEADER, DecodedRow, UnpackedRow, unpack_views
from ddkit.specs import ViewSpec

KINDS = ("noise", "real", "patches", "import")  # kinds of origins
MOST_CLASSES = 1_000_000
_SHARED = ("size", "mean", "std", "classes")  # metadata that is equal in all rows


def views_layout(policy: ViewSpec, side: int, patches: int) -> Layout:
    """Return the dtype and shape [V,...] of each view tensor of a row.

    Args:
        policy: Augmentation policy.
        side: The largest side of a stored image and of a view, pixels.
        patches: N of the stitched grid.
    """
    small, v = np.dtype(np.uint8 if side <= 255 else np.int16), policy.count
    shapes: Layout = {"box": (small, (v, 4)), "flip": (np.dtype(np.uint8), (v,))}
    if policy.mix != "none":
        shapes["partner"] = (np.dtype(np.uint16), (v,))
    if policy.mix == "cutmix":
        shapes["mix_box"] = (small, (v, 4))
    elif policy.mix == "mixup":
        shapes["mix_lam"] = (np.dtype(np.float32), (v,))
    if policy.patches == "shuffle" and patches > 1:
        shapes["patches"] = (np.dtype(np.uint8), (v, patches))
    return shapes


@dataclass(frozen=True)
class RowFormat:
    """What all rows of a set have in common.

    Attributes:
        codec: Codec of the labels.
        shapes: dtype and shape [V,...] of each view tensor.
        soft: dtype and shape of each label tensor.
        height: Height of the stored images in pixels.
        width: Width of the stored images in pixels.
        size: Side of a view in pixels.
        classes: C, the number of classes.
        shared: Metadata that is equal in all rows.
    """

    codec: Codec
    shapes: Layout
    soft: Layout
    height: int
    width: int
    size: int
    classes: int
    shared: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> RowFormat:
        """Return the row format that `manifest` specifies. Raises FormatVersion for an unknown codec."""
        side, size, v = manifest.image.size, manifest.views.size, manifest.views.count
        shapes = views_layout(manifest.views.policy, max(side, size), manifest.image.patches)
        codec = find_codec(manifest.labels.codec, stored=True)
        classes = len(manifest.classes)
        shared = {"size": size, "mean": list(manifest.normalisation.mean), "std": list(manifest.normalisation.std)}
        shared |= {"classes": classes} if codec.NAMES_CLASSES else {}
        return cls(codec, shapes, codec.layout(v, classes), side, side, size, classes, shared)

    @classmethod
    def like(cls, row: UnpackedRow, codec: Codec, extent: tuple[int, int], where: str) -> RowFormat:
        """Infer the row format from one row, without a manifest.

        Args:
            row: A row as read.
            codec: Codec of its labels.
            extent: Height and width of its image in pixels.
            where: Name of the row in messages.

        Raises:
            IntegrityError: The row cannot be of any set.
        """
        views, soft, meta = row.views, row.labels, row.metadata
        views_count = views.count
        classes = meta.get("classes") if codec.NAMES_CLASSES else soft["logits"].shape[-1]
        shapes: Layout = {key: (array.dtype, array.shape[1:]) for key, array in views.tensors().items()}
        height, width = extent
        size, channels = meta.get("size"), [meta.get("mean"), meta.get("std")]
        small = np.dtype(np.uint8 if type(size) is int and max(height, width, size) <= 255 else np.int16)
        kinds = {"box": small, "flip": np.uint8, "partner": np.uint16, "mix_box": small, "mix_lam": np.float32}
        good = (
            type(size) is int and 1 <= size <= 2048 and type(classes) is int and 1 <= classes <= MOST_CLASSES
            and views_count * classes * 4 <= LARGEST_ROW and suits(codec, classes)
            and all(isinstance(c, list) and len(c) == 3 and all(type(x) in (int, float) and abs(x) < 1e6 for x in c)
                    for c in channels)
            and min(meta["std"]) > 0 and not {"mix_box", "mix_lam"} <= shapes.keys()
            and all(dtype == kinds.get(key, np.uint8) for key, (dtype, _) in shapes.items())
            and ("partner" in shapes) == ("mix_box" in shapes or "mix_lam" in shapes)
            and all(shape[0] == views_count and (len(shape) == 2 if key == "patches" else
                    shape[1:] == ((4,) if key in ("box", "mix_box") else ())) for key, (_, shape) in shapes.items())
        )  # fmt: skip
        if not good:
            raise IntegrityError(f"{where}: its views are not in the format of a ddkit set; fetch the set again")
        shared = {key: meta[key] for key in _SHARED if key in meta}
        wanted = codec.layout(views_count, int(classes or 0))
        return cls(codec, shapes, wanted, height, width, int(size or 0), int(classes or 0), shared)

    @property
    def largest_image(self) -> int:
        """Upper bound for the bytes of a stored image: incompressible pixels, and image metadata."""
        return 6 * self.height * self.width + 2**20

    @functools.cached_property
    def tensor_bytes(self) -> int:
        """Bytes of the tensors of a row: views and labels."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in (self.shapes | self.soft).values())

    @functools.cached_property
    def largest_views(self) -> int:
        """Upper bound for the bytes of a views member: tensors and header."""
        return self.tensor_bytes + 2 * self.shapes["flip"][1][0] + LARGEST_HEADER

    @functools.cached_property
    def plain(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype, as a numpy type string, and shape of all tensors; compared with those of every row."""
        return {name: (dtype.str, shape) for name, (dtype, shape) in (self.shapes | self.soft).items()}

    def unpack(self, data: bytes, where: str, *, labels: bool = True) -> DecodedRow:
        """Decode the views member of a row and check it.

        Args:
            data: Bytes of the member.
            where: Name of the row in messages.
            labels: False does not check the values of labels; `labels_problem` does that for several rows at once.

        Raises:
            IntegrityError: A type, a shape or the metadata does not match the set, or the labels are not valid.
        """
        found = unpack_views(data, self.codec, where)
        problem = self.tensor_problem(found.views, found.labels) or self.metadata_problem(found.metadata)
        if problem is None and labels:
            wrong = self.labels_problem({name: tensor[None] for name, tensor in found.labels.items()}, thorough=True)
            problem = None if wrong is None else wrong[1]
        if problem:
            raise IntegrityError(f"{where}: {problem}; fetch the set again")
        return DecodedRow(found.views, found.labels, RowMetadata.from_json(found.metadata))

    def labels_problem(self, soft: Mapping[str, np.ndarray], thorough: bool) -> tuple[int, str] | None:
        """Return (index, problem) of the first row with labels that are not valid, or None.

        Args:
            soft: The codec's tensors [n,V,...] of n rows.
            thorough: Also find errors that do not affect students.
        """
        if self.codec.problem(soft, self.classes, thorough) is None:
            return None
        n = len(next(iter(soft.values())))
        alone = ({name: tensor[i : i + 1] for name, tensor in soft.items()} for i in range(n))
        return next(
            (i, problem) for i, one in enumerate(alone) if (problem := self.codec.problem(one, self.classes, thorough))
        )

    def tensor_problem(self, views: Views, soft: Mapping[str, np.ndarray]) -> str | None:
        """Return which tensor of a row does not have the type and shape of the set, or None.

        Args:
            views: Views of the row (n = 1).
            soft: Its label tensors [V,...].
        """
        found = {name: (array.dtype.str, array.shape[1:]) for name, array in views.tensors().items()}
        found |= {name: (array.dtype.str, array.shape) for name, array in soft.items()}
        wanted = self.plain if "mean" not in soft else self.plain | {"mean": ("<f2", (views.count,))}
        if found == wanted:
            finite = "mean" not in soft or bool(np.isfinite(soft["mean"]).all())
            return None if finite else "tensor mean is not finite"
        name = next(n for n in (*wanted, *found) if found.get(n) != wanted.get(n))
        return f"tensor {name[:40]!r} is {_shown(found.get(name))}, not {_shown(wanted.get(name))}"

    def metadata_problem(self, meta: Mapping[str, Any]) -> str | None:
        """Return which value in the row metadata `meta` is not valid, or None. Unknown keys are ignored."""
        fixed = {"format": FORMAT, "codec": self.codec.name} | dict(self.shared)
        if wrong := [key for key, value in fixed.items() if repr(meta.get(key)) != repr(value)]:  # 1 is not True or 1.0
            return f"metadata {wrong[0]} is {meta.get(wrong[0])!r:.80}, not {fixed[wrong[0]]}"
        for key in ("first", "stage", "rank"):
            if type(meta.get(key)) is not int or not 0 <= meta[key] < 10**9:
                return f"metadata {key} is {meta.get(key)!r:.80}"
        return None if _is_origin(meta.get("origin")) else f"metadata origin is {meta.get('origin')!r:.80}"

    def views_problem(
        self, views: Views, position: np.ndarray, rows: int, groups: np.ndarray | None = None
    ) -> tuple[int, str] | None:
        """Return (index, problem) of the first row with integers that no view can have, or None.

        Args:
            views: Views of n rows, with partners as positions in the shard.
            position: Positions of these rows in the shard, int [n].
            rows: Number of rows in the shard.
            groups: Mixing group of each row of the shard; None: no groups.
        """
        checks = [(_outside(views.box, self.height, self.width, 1), "a box that is not inside the image"),
                  (views.flip > 1, "a flip that is neither 0 nor 1")]  # fmt: skip
        if views.partner is not None:
            partner = views.partner
            mixed = partner != UNMIXED
            inside = partner < rows
            checks.append((mixed & ~inside, f"a partner that is not among the {rows} rows of its shard"))
            checks.append((mixed & (partner == position[:, None].astype(partner.dtype)), "itself as its partner"))
            if groups is not None:
                other = groups[np.where(inside, partner, 0)] != groups[position][:, None]
                checks.append((mixed & other, "a partner of another mixing group"))
            if views.mix_box is not None:
                region = views.mix_box
                checks.append((_outside(region, self.size, self.size, 0), "a mix_box that is not inside the view"))
                empty = (region[..., 2] == 0) | (region[..., 3] == 0) | ~mixed
                packed = region.view(np.uint32 if region.itemsize == 1 else np.uint64)[..., 0]  # four as one integer
                checks.append((empty & (packed != 0), "a mix_box where nothing is mixed"))
            if views.mix_lam is not None:
                lam = views.mix_lam
                checks.append((~((lam >= 0) & (lam <= 1)), "a mix_lam outside 0 to 1"))
                checks.append((~mixed & (lam != 1), "a mix_lam where nothing is mixed"))
        if views.patches is not None:
            n = views.patches.shape[-1]
            factor = math.isqrt(n)
            if factor * factor != n or self.height % factor or self.width % factor:
                return 0, f"{n} patches, into which {self.width}x{self.height} pixels cannot be cut"
            checks.append(((np.sort(views.patches, axis=-1) != np.arange(n)).any(axis=-1), "patches of no permutation"))
        for wrong, what in checks:
            if wrong.any():
                row, view = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
                return row, f"view {view} has {what}"
        return None


def suits(codec: Codec, classes: int) -> bool:
    """Return whether a codec can have labels of this many classes.

    Args:
        codec: The codec.
        classes: C, the number of classes.
    """
    try:
        codec.check(classes)
    except OptionError:
        return False
    return True


def _is_origin(origin: Any) -> bool:
    """Whether a JSON value is a valid origin (see entries.Origin)."""
    if not isinstance(origin, dict) or origin.get("kind") not in KINDS or not isinstance(origin.get("rows"), list):
        return False
    if not isinstance(origin.get("rule", ""), str):
        return False
    crops = origin.get("crops", [])
    if not isinstance(crops, list) or not all(type(crop) is int and crop >= 0 for crop in crops):
        return False
    if origin["kind"] == "import":
        return all(isinstance(name, str) and len(name) <= 4096 for name in origin["rows"])
    return all(type(row) is int and 0 <= row < 10**12 for row in origin["rows"])


def _outside(box: np.ndarray, height: int, width: int, least: int) -> np.ndarray:
    """Which boxes [n,V,4] are not inside height x width or have a side below `least`: bool [n,V]."""
    wide_enough = np.int16 if box.dtype == np.uint8 else np.int32
    top, left, tall, wide = np.moveaxis(box, -1, 0).astype(wide_enough, order="C")
    wrong = (top + tall > height) | (left + wide > width)
    if least:
        wrong |= (tall < least) | (wide < least)
    found: np.ndarray = (
        wrong if box.dtype.kind == "u" else wrong | (np.minimum(top, left) < 0) | (np.minimum(tall, wide) < 0)
    )
    return found


def _shown(found: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if found is None else f"{np.dtype(found[0])} {list(found[1])}"


def ranks_problem(labels: np.ndarray, ranks: np.ndarray, classes: int, low: int, high: int) -> str | None:
    """Return why the rows of an increment do not have each rank of each class exactly once, or None.

    Args:
        labels: Class indices, int [n].
        ranks: IPC ranks within the class, int [n].
        classes: Number of classes.
        low: Lowest rank of the increment.
        high: Highest rank of the increment plus 1.
    """
    if ((labels < 0) | (labels >= classes)).any():
        return f"class {int(labels[(labels < 0) | (labels >= classes)][0])} is not one of the {classes}"
    if ((ranks < low) | (ranks >= high)).any():
        return f"rank {int(ranks[(ranks < low) | (ranks >= high)][0])} is not of the prefix, {low} to {high - 1}"
    counts = np.bincount(labels * (high - low) + ranks - low, minlength=classes * (high - low))
    if (counts != 1).any():
        label, rank = divmod(int((counts != 1).argmax()), high - low)
        return f"class {label} has rank {rank + low} {int(counts[counts != 1][0])} times, not once"
    return None
