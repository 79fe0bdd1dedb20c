"""SRe2L: noise optimised to match the teacher's BatchNorm statistics and to be classified as its label.

Source: arXiv 2306.13092 (NeurIPS 2023) and its scripts (docs/methods.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from ddkit.synthesis.plain_inversion import costs, real_pixels, run, units
from ddkit.synthesis.settings import Inversion

__all__ = ["COST", "NAME", "PAPER", "Config", "costs", "real_pixels", "run", "units"]

NAME = "sre2l"
PAPER = "Squeeze, Recover and Relabel (SRe2L), arXiv 2306.13092"
COST = "steps x images passes forward and backward; the paper: 2.1 s an image at 224 px on one RTX 4090"


@dataclass(frozen=True, kw_only=True)
class Config(Inversion):
    """Settings of Inversion, whose defaults are SRe2L's."""
