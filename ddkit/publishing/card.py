"""The card (README.md), `_info.json` and `preview.png` of a set: rendered strictly from its manifest."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ddkit.errors import SetError
from ddkit.format.manifest import Manifest
from ddkit.plain import PACKAGE, canonical
from ddkit.publishing.pictures import preview_grid, title
from ddkit.runtime import size_words, write_bytes

TEMPLATE = "dataset_card.md.j2"


def template_folder() -> Path:
    """The card templates: inside an installed ddkit, else in the checkout (an editable install copies none)."""
    installed = Path(str(importlib.resources.files("ddkit"))) / "card_templates"
    for folder in (installed, PACKAGE.parent / "cards"):
        if (folder / TEMPLATE).is_file():
            return folder
    raise SetError(f"the card template {TEMPLATE} is missing; install ddkit again: pip install --force-reinstall ddkit")


def render_card(manifest: Manifest) -> str:
    """README.md as text. A value that the manifest lacks is an error, never a placeholder."""
    environment = Environment(
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown, not HTML)
    )
    data = manifest.data
    facts = {
        "front_matter": yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True, width=1000),
        "title": title(manifest),
        "m": data,
        "rows": manifest.rows(),
        "where": data["repo"] or manifest.root.name,
        "total": size_words(sum(shard["bytes"] for shard in data["shards"])),
        "prefixes": [_prefix_facts(manifest, prefix) for prefix in manifest.prefixes],
        "results": sorted(data["results"], key=lambda r: (r["ipc"], r["arch"], r["protocol"], r["of"], r["labels"])),
        "several_crops": several_crops(data["log"]["plan"]),
    }
    return environment.get_template(TEMPLATE).render(facts)


def several_crops(plans: dict[str, Any]) -> int:
    """Classes (over all prefixes) whose pool was too small for one crop an image."""
    return max((sum(k > 1 for k in plan.get("crops_kept", [])) for plan in plans.values()), default=0)


def _prefix_facts(manifest: Manifest, prefix: int) -> dict[str, Any]:
    shards = manifest.shards(prefix)
    return {"ipc": prefix, "rows": manifest.rows(prefix), "size": size_words(sum(s["bytes"] for s in shards))}


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """The card's YAML: full `dataset_info` (else a missing sample goes unnoticed), `configs` by explicit paths."""
    data, rows = manifest.data, manifest.rows()
    licence = data["license"]
    head: dict[str, Any] = {"license": licence["id"]} if licence else {}
    head |= {
        "pretty_name": title(manifest),
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(rows)],
        "tags": ["dataset-distillation", "dataset-condensation", "webdataset", f"ipc-{manifest.ipc}", "ddkit"],
    }
    names = ["default", *(f"ipc{prefix}" for prefix in manifest.prefixes), "images"]
    chosen = {"default": None, "images": None} | {f"ipc{prefix}": prefix for prefix in manifest.prefixes}
    configs, infos = [], []
    for name in names:
        shards = manifest.shards(chosen[name])
        if name == "images" and data["image_tars"]:
            shards = [shard["images"] for shard in shards]
        paths = [shard["path"] for shard in shards]
        config: dict[str, Any] = {"config_name": name, "data_files": [{"split": "train", "path": paths}]}
        configs.append(config | ({"default": True} if name == "default" else {}))
        total = sum(shard["bytes"] for shard in shards)
        split = {"name": "train", "num_bytes": total, "num_examples": manifest.rows(chosen[name])}
        features = _features(manifest, labels=name != "images")
        infos.append(
            {
                "config_name": name,
                "features": features,
                "splits": [split],
                "download_size": total,
                "dataset_size": total,
            }
        )
    return head | {"configs": configs, "dataset_info": infos}


def _features(manifest: Manifest, labels: bool) -> list[dict[str, Any]]:
    names = {str(i): name for i, name in enumerate(manifest.class_names)}
    features: list[dict[str, Any]] = [
        {"name": manifest.image_codec, "dtype": "image"},
        {"name": "cls", "dtype": {"class_label": {"names": names}}},
    ]
    if labels:
        features.append({"name": "views.safetensors", "dtype": "binary"})
    return [*features, {"name": "__key__", "dtype": "string"}]


def _size_category(rows: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[min(max(len(str(rows)) - 3, 0), 5)]


def info_json(manifest: Manifest) -> str:
    """`_info.json`, by which timm's WebDataset reader finds shards and their lengths."""
    shards = manifest.data["shards"]
    train = {
        "name": "train",
        "filenames": [shard["path"] for shard in shards],
        "shard_lengths": [shard["rows"] for shard in shards],
        "num_samples": manifest.rows(),
    }
    return canonical({"content": manifest.data["content"], "splits": {"train": train}}) + "\n"


def publish_files(manifest: Manifest) -> None:
    """Render README.md, `_info.json` and `preview.png` into the set."""
    root = manifest.root
    write_bytes(root / "_info.json", info_json(manifest).encode())
    preview_grid(manifest, root / "preview.png")
    write_bytes(root / "README.md", render_card(manifest).encode())
