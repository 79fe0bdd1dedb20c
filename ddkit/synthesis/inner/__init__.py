"""Inner methods: what makes the images of a stage, found by the name that CUDD's setting `inner` gives."""

from ddkit.synthesis.inner.interface import InnerMethod
from ddkit.synthesis.inner.inversion import InversionMethod
from ddkit.synthesis.inner.rded import RdedMethod
from ddkit.synthesis.settings import Inversion

__all__ = ["InnerMethod", "find_inner"]


def find_inner(name: str, settings: Inversion) -> InnerMethod:
    """The inner method called `name` (inversion or rded) with its settings."""
    return RdedMethod(settings.patch) if name == "rded" else InversionMethod(settings)
