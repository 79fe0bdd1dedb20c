"""Sources: labelled images with classes and splits. The only package that knows the names of datasets."""

from ddkit.sources.images import Source, SourceRef, open_source

__all__ = ["Source", "SourceRef", "open_source"]
