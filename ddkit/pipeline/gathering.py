"""Gathers the rows of a damaged shard from whatever still holds their members."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ddkit.format.entries import VIEWS_MEMBER, ByteRange, RowRecord, ShardEntry, row_key
from ddkit.format.row_records import image_ranges
from ddkit.format.shards import Sample
from ddkit.format.surviving_members import SurvivingMembers
from ddkit.pipeline.kept_units import KeptUnits
from ddkit.sets.copies import Copy


class GatheredRows:
    """The rows of a shard, gathered from tars, OUT.work and another copy.

    Args:
        number: Position of the shard in the manifest.
        shard: The shard.
        root: Directory of the set.
        records: Its row records; None: lost, so that all rows come from OUT.work.
        units: The units in OUT.work, if any.
        copy: Another copy of the set, if any.

    Attributes:
        known: Whether records or encoded images say which rows there are.
        missing: The members that were found nowhere, filled by `samples`.
        used: Names of the places that members were found in, filled by `samples`.
    """

    def __init__(
        self, number: int, shard: ShardEntry, root: Path, records: list[RowRecord] | None, units: KeptUnits | None,
        copy: Copy | None,
    ) -> None:  # fmt: skip
        self._number, self._shard, self._records, self._units = number, shard, records, units
        self._encoded = units.encoded(number) if units else None
        paths = [shard.path, *([shard.images.path] if shard.images else [])]
        places = {"the set": root} | ({copy.name: copy.root} if copy else {})
        self._tars = {
            name: SurvivingMembers([folder / path for path in paths], 2 * shard.bytes)
            for name, folder in places.items()
        }
        self.known = records is not None or self._encoded is not None
        self.missing: list[str] = []
        self.used: dict[str, None] = {}

    def samples(self) -> Iterator[Sample]:
        """Yield the rows; a member that is found nowhere is empty."""
        if self._records is None:
            yield from self._from_units()
            return
        for i, (record, beside) in enumerate(zip(self._records, image_ranges(self._records))):
            kept = self._encoded.images[i] if self._encoded else None
            image = self._found(record.image, beside) or self._matching(kept, record.image)
            views = self._found(record.views)
            if views is None and self._units:
                views = self._matching(self._units.views(self._number, i), record.views)
            yield self._sample(record.row, record.label, image, views)

    def _from_units(self) -> Iterator[Sample]:
        assert self._units and self._encoded
        plan = self._units.plans[self._number]
        self.used[self._units.how.work] = None
        for i, label in enumerate(self._encoded.labels.tolist()):
            yield self._sample(plan.first + i, label, self._encoded.images[i], self._units.views(self._number, i))

    def _sample(self, row: int, label: int, image: bytes | None, views: bytes | None) -> Sample:
        if image is None:
            self.missing.append(f"the image of row {row_key(row)}")
        if views is None:
            self.missing.append(f"{VIEWS_MEMBER} of row {row_key(row)}")
        return Sample(row, label, image or b"", views or b"")

    def _found(self, *places: ByteRange) -> bytes | None:
        for name, tars in self._tars.items():
            if (data := tars.find(*places)) is not None:
                self.used[name] = None
                return data
        return None

    def _matching(self, data: bytes | None, place: ByteRange) -> bytes | None:
        """Data of OUT.work, if it has the recorded hash."""
        if data is None or hashlib.sha256(data).hexdigest() != place.sha256:
            return None
        assert self._units is not None
        self.used[self._units.how.work] = None
        return data
