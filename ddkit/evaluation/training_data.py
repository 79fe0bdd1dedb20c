"""What students of one table row are trained on, and how many bytes have to be shipped for that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddkit.format.damage import row_records
from ddkit.format.manifest import Manifest
from ddkit.networks.checkpoints import read_weights

HALF = 2  # bytes of a number in half precision


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What the students of one row are trained on, for one of the evaluated sets.

    Attributes:
        of: What it is, as in results: "this", "random" or "equal-bytes".
        labels: Kind of labels, as in results: "stored", "relabelled", "hard" or "online".
        manifest: The set with the images, and with the stored labels.
        ipc: The prefix of it that is used; None: the whole set.
        baseline: Name of the baseline, one of `format.results.BASELINE_NAMES`; None: the evaluated set itself.
        teacher: Checkpoint of the teacher, for online labels.
    """

    of: str
    labels: str
    manifest: Manifest
    ipc: int | None = None
    baseline: str | None = None
    teacher: str | None = None

    @property
    def mode(self) -> str:
        """How students read the labels: "stored", "hard" or "online"."""
        return "stored" if self.labels == "relabelled" else self.labels

    @property
    def total_bytes(self) -> int:
        """What has to be shipped so that a student can be trained in this way, bytes.

        Stored labels: the shards. Hard labels: the encoded images alone, without archive, views and soft labels.
        Online labels: the encoded images, and the teacher in half precision.
        """
        if self.mode == "stored":
            return self.manifest.total_bytes(self.ipc)
        images = image_bytes(self.manifest, self.ipc)
        return images if self.teacher is None else images + half_precision_bytes(Path(self.teacher))


def image_bytes(manifest: Manifest, ipc: int | None = None) -> int:
    """Return the bytes of the encoded images of a set, without the archives that hold them.

    Args:
        manifest: The set, in a directory.
        ipc: Only this prefix; None: the whole set.
    """
    return sum(record.image.length for shard in manifest.shards_of(ipc) for record in row_records(manifest, shard))


def half_precision_bytes(checkpoint: Path) -> int:
    """Return the bytes of a network's weights and normalisation statistics at two bytes a number.

    Args:
        checkpoint: Its safetensors file.

    Raises:
        TeacherError: The file is not a checkpoint.
    """
    return HALF * sum(tensor.numel() for tensor in read_weights(checkpoint)[0].values() if tensor.is_floating_point())
