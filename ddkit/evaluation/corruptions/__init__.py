"""The 19 common corruptions of ImageNet-C and CIFAR-10-C, as deterministic functions of images and a seed.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
`benchmarks/corruptions.py` compares them with a public implementation.
"""

from ddkit.evaluation.corruptions.registry import CORRUPTIONS, corrupt
from ddkit.evaluation.corruptions.tables import SEVERITIES

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]
