"""CDA: SRe2L with a crop curriculum, from the whole image to small parts of it.

Source: arXiv 2311.18838 (TMLR 2024) and its scripts (docs/methods.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ddkit.synthesis.plain_inversion import costs, real_pixels, run, units
from ddkit.synthesis.settings import Crop, Inversion

__all__ = ["COST", "NAME", "PAPER", "Config", "costs", "real_pixels", "run", "units"]

NAME = "cda"
PAPER = "Dataset Distillation via Curriculum Data Synthesis (CDA), arXiv 2311.18838"
COST = "as SRe2L; the paper: 29 hours for ImageNet-1K at IPC 50 on one RTX 4090"


@dataclass(frozen=True, kw_only=True)
class Config(Inversion):
    """Settings of Inversion, with crops from global to local."""

    crop: Crop = field(default_factory=lambda: Crop(direction="global-to-local"))
