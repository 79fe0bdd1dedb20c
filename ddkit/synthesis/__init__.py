"""How images are made: the distiller's interface, and the parts that methods are composed of.

Distillers come in, also other people's: `from ddkit.synthesis import Plan, Unit, Synthetic, Context`.
"""

from ddkit.format.entries import Origin
from ddkit.synthesis.interface import Context, Plan, Synthetic, Unit

__all__ = ["Context", "Origin", "Plan", "Synthetic", "Unit"]
