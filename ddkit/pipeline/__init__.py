"""The main path as code: `distilling.distill` reads from top to bottom as the diagram in README does.

record -> costs -> making (a distiller's units) -> manifests -> distilling, relabels, importing. Commands and
evaluation come in.
"""

from ddkit.pipeline.distilling import distill
from ddkit.pipeline.importing import import_images
from ddkit.pipeline.relabelling import relabel

__all__ = ["distill", "import_images", "relabel"]
