"""k-means: the real images nearest to the centroids of their class in the teacher's features."""

from ddkit.synthesis.coresets import Config, coreset, costs, k_means

__all__ = ["COST", "NAME", "PAPER", "Config", "costs", "run", "units"]

NAME = "kmeans"
PAPER = "k-means on penultimate features; baseline of dataset distillation"
COST = "one pass of the teacher over the source"
units, run = coreset(NAME, k_means)
