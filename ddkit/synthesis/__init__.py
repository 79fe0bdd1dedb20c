"""Image synthesis: the interface of distillers and the components that methods are composed of.

Distillers, third-party ones included, import from here: `from ddkit.synthesis import Plan, Unit, Synthetic, Context`.
"""

from ddkit.format.entries import Origin
from ddkit.synthesis.interface import Context, Plan, Synthetic, Unit

__all__ = ["Context", "Origin", "Plan", "Synthetic", "Unit"]
