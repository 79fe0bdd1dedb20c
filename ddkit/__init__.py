"""ddkit distils a large labelled image dataset into a tiny synthetic one, replays it exactly, and publishes it.

Importing the package does not import torch: public names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.9.4"

_PUBLIC = {
    "DdkitError": "ddkit.errors",
    "ReplayLoader": "ddkit.replay.loader",
    "apply_view": "ddkit.replay.dataset_rows",
    "as_webdataset": "ddkit.replay.pipelines",
    "card": "ddkit.publishing.looking",
    "decode_row": "ddkit.replay.dataset_rows",
    "distill": "ddkit.pipeline.distilling",
    "eval_transform": "ddkit.students.transforms",
    "evaluate": "ddkit.evaluation.tables",
    "export": "ddkit.sources.exporting",
    "import_images": "ddkit.pipeline.importing",
    "inspect": "ddkit.publishing.looking",
    "list": "ddkit.listing:list_",
    "load_student": "ddkit.students.transforms",
    "plan": "ddkit.pipeline.planning",
    "preview": "ddkit.publishing.looking",
    "pull": "ddkit.publishing.pulling",
    "push": "ddkit.publishing.pushing",
    "relabel": "ddkit.pipeline.relabelling",
    "repair": "ddkit.pipeline.repairing",
    "report": "ddkit.publishing.page.rendering",
    "soft_label_loss": "ddkit.students.losses",
    "teach": "ddkit.teachers.teaching",
    "train": "ddkit.evaluation.students",
    "verify": "ddkit.sets.opening",
}

__all__ = ["__version__", *(name for name in _PUBLIC if name != "list")]  # noqa: PLE0604  (`*` must not hide the builtin)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(importlib.import_module(module), attribute or name)
    raise AttributeError(f"module 'ddkit' has no attribute {name!r}; it has {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return ["__version__", *_PUBLIC]
