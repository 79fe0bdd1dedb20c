"""The stated speed of a device that is not here: seconds of a network's forward pass from its operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ddkit.errors import OptionError
from ddkit.teachers.teacher import Teacher

USUAL_SHARE = 0.40  # of the peak, where none was measured: ResNet-18 at 224 pixels on an RTX 4090, as below


@dataclass(frozen=True)
class DeviceSpeed:
    """The speed of a device.

    float32 counts as TF32, in which GPUs convolve by default: half the peak of bfloat16.

    Attributes:
        name: Name of the device, or the peak as given.
        tflops: Peak of dense bfloat16 operations, 10^12 a second.
        share: Share of the peak that networks are taken to reach.
        basis: What the share is based on.
    """

    name: str
    tflops: float
    share: float
    basis: str

    @classmethod
    def parse(cls, text: str) -> DeviceSpeed:
        """Return the speed of a device, by its name or by its peak.

        Args:
            text: h200, h100, a100, 4090, or the peak of dense bfloat16 operations in TFLOP/s.

        Raises:
            OptionError: It is neither.
        """
        if text.lower() in SPEEDS:
            return SPEEDS[text.lower()]
        try:
            tflops = float(text)
        except ValueError:
            tflops = 0.0
        if not 0 < tflops < 1e9:
            raise OptionError(
                f"--device-speed is {text[:30]!r}; give {', '.join(SPEEDS)}, or the device's peak of dense bfloat16 "
                "operations in TFLOP/s, as in 312"
            )
        return cls(f"{tflops:g} TFLOP/s", tflops, USUAL_SHARE, "as on an RTX 4090, not measured on this device")

    @property
    def about(self) -> str:
        """What the estimate of this device is based on, in words."""
        return f"{self.name}: {100 * self.share:.0f} % of {self.tflops:g} TFLOP/s in bfloat16 ({self.basis})"

    def seconds(self, flops: float) -> dict[str, float]:
        """Return how long `flops` operations take, in seconds by precision."""
        half = flops / (1e12 * self.tflops * self.share)
        return {"bfloat16": half, "float32": 2 * half}


# Peaks: NVIDIA's data sheets, without sparsity. Shares: ResNet-18, 224 pixels, channels last, not compiled, 18,200
# images a second (timm's benchmark tables); airbench94_muon, 112 TFLOP/s (KellerJordan/cifar10-airbench). On an H200,
# steps that make images with ResNet-18 reach 68 TFLOP/s at 224 pixels and 69 at 32 (benchmarks/README.md): memory and
# launches, which a larger peak does not shorten, take most of the time.
SPEEDS = {
    "h200": DeviceSpeed("h200", 989, 0.07, "as measured on one: images made with ResNet-18"),
    "h100": DeviceSpeed("h100", 989, 0.07, "as measured on an H200, which has a faster memory"),
    "a100": DeviceSpeed("a100", 312, 0.36, "as cifar10-airbench measured it"),
    "4090": DeviceSpeed("4090", 165, USUAL_SHARE, "as timm measured it for ResNet-18"),
}


def forward_flops(teacher: Teacher, size: int) -> int:
    """Return the floating-point operations of a forward pass over one image; a multiplication and addition are two.

    Args:
        teacher: The network; one image passes through it.
        size: Side of the image, pixels.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        teacher.network(torch.zeros(1, 3, size, size, device=teacher.device))
    return counter.get_total_flops()
