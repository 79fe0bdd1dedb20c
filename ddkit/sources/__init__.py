"""What goes in: labelled images, their classes and splits; networks, checkpoints, teachers and how they are trained.

Everything below the format may come in. The only room that knows dataset names.
"""

from ddkit.sources.images import Source, SourceRef, open_source
from ddkit.sources.networks import build_network, load_checkpoint, save_checkpoint
from ddkit.sources.teacher import Teacher

__all__ = [
    "Source",
    "SourceRef",
    "Teacher",
    "build_network",
    "load_checkpoint",
    "open_source",
    "save_checkpoint",
]
