"""k-center greedy: real images that minimise the largest distance to any other image in the teacher's features."""

from ddkit.synthesis.coresets import Config, coreset, costs, k_center

__all__ = ["COST", "NAME", "PAPER", "Config", "costs", "run", "units"]

NAME = "kcenter"
PAPER = "Sener and Savarese, arXiv 1708.00489; baseline of dataset distillation"
COST = "one pass of the teacher over the source"
units, run = coreset(NAME, k_center)
