"""What goes in: labelled images, their classes and splits. The only room that knows dataset names."""

from ddkit.sources.images import Source, SourceRef, open_source

__all__ = ["Source", "SourceRef", "open_source"]
