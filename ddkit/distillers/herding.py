"""Herding: real images whose mean feature, under the teacher, is nearest to the mean of their class."""

from ddkit.synthesis.coresets import Config, coreset, costs, herding

__all__ = ["COST", "NAME", "PAPER", "Config", "costs", "run", "units"]

NAME = "herding"
PAPER = "Welling, ICML 2009; baseline of dataset distillation"
COST = "one pass of the teacher over the source"
units, run = coreset(NAME, herding)
