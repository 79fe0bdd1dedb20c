"""The commands that make sets: `distill`, `import_images` and `relabel`.

`distilling.distill` is the main path; it runs the steps in the order of the diagram in README.md.
"""

from ddkit.pipeline.distilling import distill
from ddkit.pipeline.importing import import_images
from ddkit.pipeline.relabelling import relabel

__all__ = ["distill", "import_images", "relabel"]
