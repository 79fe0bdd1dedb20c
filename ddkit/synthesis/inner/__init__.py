"""Inner methods, which make the images of a stage. CUDD's setting `inner` names the one to use."""

from typing import Literal

from ddkit.synthesis.inner.interface import InnerMethod
from ddkit.synthesis.inner.inversion import InversionMethod
from ddkit.synthesis.inner.rded import RdedMethod
from ddkit.synthesis.settings import Inversion

__all__ = ["InnerMethod", "find_inner"]


def find_inner(name: Literal["inversion", "rded"], settings: Inversion) -> InnerMethod:
    """Return an inner method with its settings.

    Args:
        name: `inversion` or `rded`.
        settings: Settings of the inversion; `rded` uses those of the patches.
    """
    return RdedMethod(settings.patch) if name == "rded" else InversionMethod(settings)
