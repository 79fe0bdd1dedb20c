"""Renders the card (README.md), `_info.json` and `preview.png` of a set from its manifest alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ddkit import hub
from ddkit.core.console import note, size_words
from ddkit.core.files import read_limited, refuse_links, write_bytes
from ddkit.core.front_matter import LARGEST_CARD
from ddkit.core.serialization import canonical
from ddkit.errors import IntegrityError
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import ImagesEntry, ShardEntry
from ddkit.format.label_info import Fidelity
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import work_beside
from ddkit.format.results import ResultEntry
from ddkit.format.verification import stale_files
from ddkit.publishing.escaping import markdown, web_address
from ddkit.publishing.pictures import preview_grid, source_name, title
from ddkit.publishing.summaries import summary_table
from ddkit.publishing.templates import DATASET_CARD, render_template, template_folder
from ddkit.publishing.user_content import UserContent, digest, user_content_of
from ddkit.publishing.verdicts import verdicts
from ddkit.sources.classes import unique_names
from ddkit.text import plain_name, printable

PREVIEW = "preview.png"

REFERENCES = "references.bib"
MANY_CLASSES = 1000  # above it a card has the names once: the Hub refuses cards of a megabyte (413, Payload Too Large)
FRONT_KEYS = {
    *("license", "license_name", "license_link", "pretty_name", "task_categories", "annotations_creators"),
    *("size_categories", "source_datasets", "tags", "configs", "dataset_info"),
}
# architectures that the card's code can build; a manifest may come from anywhere, so nothing else is put into code
_SHOWN_ARCH = re.compile(r"(timm|torchvision):[\w.-]{1,100}|resnet(18|50|101)(-small)?|convnet[3-6](-in|-w32|-w64)?")
_OUR_TAGS = re.compile(r"dataset-(distillation|condensation)|webdataset|ipc-\d+|ddkit|arxiv:.*")


def user_front_matter(matter: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a card's front matter that ddkit does not write: other keys, and other tags.

    Args:
        matter: The parsed front matter.
    """
    tags = matter.get("tags")
    others = {key: value for key, value in matter.items() if key not in FRONT_KEYS}
    if isinstance(tags, list) and (own := [tag for tag in tags if not _OUR_TAGS.fullmatch(str(tag))]):
        others["tags"] = own
    return others


def front_matter_text(front: Mapping[str, Any]) -> str:
    """Return front matter as YAML; unprintable characters are escaped.

    Args:
        front: The front matter.
    """
    text: str = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    if printable(text) != text:
        text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=False, width=1000)
    return text


def render_card(manifest: Manifest, user_content: UserContent | None = None) -> str:
    """Render README.md. A value that the manifest lacks is an error.

    Args:
        manifest: The set.
        user_content: User content to keep around ddkit's part.
    """
    user_content = user_content or UserContent()
    results = sorted(manifest.results, key=lambda r: (r.ipc, r.arch, r.protocol, r.of, r.labels))
    headline, random = _headline(manifest, results)
    classes, codec, source_id = len(manifest.classes), manifest.image.codec, manifest.source.id
    facts = {
        "front_matter": front_matter_text(_merge_front_matter(front_matter(manifest), user_content.matter)),
        "user_content": user_content,
        "title": title(manifest),
        "m": manifest,
        "rows": manifest.rows(),
        "many_classes": classes > MANY_CLASSES,
        "where": manifest.repo or _folder_name(manifest),
        "rename": json.dumps({codec: "image", "cls": "label"}),
        "total": size_words(manifest.total_bytes()),
        "batch": min(manifest.rows(), 64),
        "source": source_name(manifest),
        "source_repo": source_id if source_id and hub.split_id(source_id) else None,
        "licence_link": web_address(manifest.license and manifest.license.link),
        "part": manifest.subset_of,
        "teacher": manifest.teacher,
        "prefixes": [_prefix_facts(manifest, prefix) for prefix in manifest.prefixes],
        "results": results,
        "headline": headline,
        "headline_rows": headline.ipc * classes if headline else 0,
        "random": random,
        "verdicts": verdicts(headline, results) if headline else [],
        "compared": [(r, d) for r in results if r.of == "this" for d in r.differences],
        "summaries": summary_table(manifest.measurements),
        "random_rows": random.ipc * classes if random else 0,
        "several_crops": several_crops(manifest.log.plan),
        "size_words": size_words,
        "fidelity_words": fidelity_words,
        "paper": re.sub(
            r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", markdown(manifest.recipe.paper)
        ),
        "citation": citation(manifest.method),
    }
    return render_template(DATASET_CARD, facts | _codec_facts(manifest))


def _codec_facts(manifest: Manifest) -> dict[str, Any]:
    """Return what the card says about the label codec. `codec_template` describes its tensors and decodes them."""
    codec, file = find_codec(manifest.labels.codec, stored=True), manifest.labels.file
    source, options = None, ""
    if file is not None:
        local = f'"{_folder_name(manifest)}/{file.path}"'
        source = f'hf_hub_download("{manifest.repo}", "{file.path}", repo_type="dataset")' if manifest.repo else local
        options = "" if codec.FROM_PIXELS else ", labels=shared"
    if codec.temperatures((manifest.labels.temperature,)) == ():
        options += ", temperature=1"
    return {
        "codec_template": f"codecs/{codec.FAMILY}.md.j2",
        "codec_file": file.path if file else None,
        "codec_source": source,
        "decode_labels": "shared" in options,
        "decode_options": options,
        "teacher_arch": manifest.teacher.arch if _SHOWN_ARCH.fullmatch(manifest.teacher.arch) else None,
        "label_bytes": codec.bytes_per_view(len(manifest.classes)),
    }


def fidelity_words(found: Fidelity) -> str:
    """Return measured fidelity in words.

    Args:
        found: The fidelity.
    """
    at_20 = "" if found.kl_t20 is None else f" and {found.kl_t20:.2g} at 20"
    return (
        f"mean KL divergence {found.kl_t1:.2g} nats at temperature 1{at_20}; the same top class in "
        f"{100 * found.top1_agreement:.2f} % of views"
    )


def _folder_name(manifest: Manifest) -> str:
    """Return the name of the set's directory for code examples on the card."""
    name = manifest.root.resolve().name
    return name if re.fullmatch(r"[\w.,+ -]+", name) else plain_name(name)


def _merge_front_matter(ours: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    tags = [*ours["tags"], *(tag for tag in theirs.get("tags", []) if tag not in ours["tags"])]
    return ours | dict(theirs) | {"tags": tags}


def _headline(manifest: Manifest, results: Sequence[ResultEntry]) -> tuple[ResultEntry | None, ResultEntry | None]:
    """Return the result for the card's first sentence, and the random baseline measured in the same way.

    It is the one nearest to: whole set, recommended protocol and network, stored labels.
    """
    own = manifest.recommended

    kinds = ("hard", "online", "relabelled", "stored")

    def nearness(r: ResultEntry) -> tuple[Any, ...]:
        family = r.protocol.split("+")[0] == own.protocol
        exactly = r.protocol == own.protocol
        return (r.ipc == manifest.ipc, kinds.index(r.labels), r.arch == own.arch, exactly, family,
                r.n_students)  # fmt: skip

    ours = max((r for r in results if r.of == "this"), key=nearness, default=None)
    if ours is None:
        return None, None
    alike = ("ipc", "arch", "protocol", "labels", "val")
    random = [r for r in results if r.of == "random" and all(getattr(r, key) == getattr(ours, key) for key in alike)]
    return ours, random[0] if random else None


def citation(method: str) -> str:
    """Return the BibTeX entries of a method, if its paper is known, and of ddkit.

    Args:
        method: Name of the method.
    """
    entries = (template_folder() / REFERENCES).read_text(encoding="utf-8").strip().split("\n\n")
    return "\n\n".join(e for e in entries if re.match(rf"@\w+{{({re.escape(method)}|ddkit),", e))


def several_crops(plans: dict[str, Any]) -> int:
    """Return the largest number of classes in a prefix that had too few images for one crop per image.

    Args:
        plans: The manifest's `log.plan`, by prefix.
    """
    return max((sum(k > 1 for k in plan.get("crops_kept", [])) for plan in plans.values()), default=0)


def _prefix_facts(manifest: Manifest, prefix: int) -> dict[str, Any]:
    name = "default" if prefix == manifest.ipc and len(manifest.prefixes) == 1 else f"ipc{prefix}"
    size = size_words(manifest.total_bytes(prefix))
    return {"name": name, "ipc": prefix, "rows": manifest.rows(prefix), "size": size}


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """Return the card's front matter.

    `dataset_info` is complete, so that missing samples are detected; `configs` list explicit paths.

    Args:
        manifest: The set.
    """
    rows, licence, source = manifest.rows(), manifest.license, manifest.source.id
    terms = {"license": "id", "license_name": "name", "license_link": "link"}
    head: dict[str, Any] = {key: text for key, ours in terms.items() if (text := getattr(licence, ours, None))}
    papers = re.findall(r"\d{4}\.\d{5}", manifest.recipe.paper)
    head |= {
        "pretty_name": title(manifest),
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [_size_category(rows)],
        "source_datasets": [source if hub.split_id(source) else f"extended|other-{plain_name(source)}"],
        "tags": [
            *("dataset-distillation", "dataset-condensation", "webdataset", f"ipc-{manifest.ipc}", "ddkit"),
            *(f"arxiv:{paper}" for paper in papers),
        ],
    }
    names = ["default", *(f"ipc{prefix}" for prefix in manifest.prefixes), "images"]
    chosen = {"default": None, "images": None} | {f"ipc{prefix}": prefix for prefix in manifest.prefixes}
    configs, infos = [], []
    labels = {str(i): name for i, name in enumerate(unique_names(manifest.classes))}
    for name in names:
        shards = manifest.shards_of(chosen[name])
        alone = [shard.images for shard in shards if shard.images is not None]
        files: Sequence[ShardEntry | ImagesEntry] = alone if name == "images" and manifest.image_tars else shards
        paths = [file.path for file in files]
        config: dict[str, Any] = {"config_name": name, "data_files": [{"split": "train", "path": paths}]}
        configs.append(config | ({"default": True} if name == "default" else {}))
        total = sum(file.bytes for file in files)
        split = {"name": "train", "num_bytes": total, "num_examples": manifest.rows(chosen[name])}
        shown = labels if len(labels) > MANY_CLASSES else dict(labels)  # YAML refers to an object it has shown before
        features = _features(manifest, shown, with_views=name != "images")
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


def _features(manifest: Manifest, labels: Mapping[str, str], with_views: bool) -> list[dict[str, Any]]:
    features: list[dict[str, Any]] = [
        {"name": manifest.image.codec, "dtype": "image"},
        {"name": "cls", "dtype": {"class_label": {"names": labels}}},
    ]
    if with_views:
        features.append({"name": "views.safetensors", "dtype": "binary"})
    return [*features, {"name": "__key__", "dtype": "string"}]


def _size_category(rows: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[min(max(len(str(rows)) - 3, 0), 5)]


def info_json(manifest: Manifest) -> str:
    """Return `_info.json`, from which timm's WebDataset reader reads shards and their lengths.

    Args:
        manifest: The set.
    """
    train = {
        "name": "train",
        "filenames": [shard.path for shard in manifest.shards],
        "shard_lengths": [shard.rows for shard in manifest.shards],
        "num_samples": manifest.rows(),
    }
    return canonical({"content": manifest.content, "splits": {"train": train}}) + "\n"


def card_text(path: Path) -> str | None:
    """Return a README.md as text, None if it does not exist; bytes that are not UTF-8 are kept (surrogateescape).

    Args:
        path: The file.

    Raises:
        IntegrityError: The file is larger than a card can be.
    """
    if not path.is_file():
        return None
    data = read_limited(path, LARGEST_CARD)
    if data is None:
        raise IntegrityError(f"{path} is larger than a card can be ({size_words(LARGEST_CARD)}); shorten or remove it")
    return data.decode("utf-8", "surrogateescape")


def card_files(manifest: Manifest, user_content: UserContent) -> dict[str, bytes]:
    """Render README.md, `_info.json` and `preview.png` of a set: file name -> bytes.

    Args:
        manifest: The set.
        user_content: User content of the card.
    """
    return {
        "_info.json": info_json(manifest).encode(),
        PREVIEW: preview_grid(manifest, heading=False),
        "README.md": render_card(manifest, user_content).encode("utf-8", "surrogateescape"),
    }


def parse_user_content(card: str | None, root: Path, what: str) -> UserContent:
    """Return the user content of a card. A card that cannot be parsed is saved whole in OUT.work.

    Args:
        card: Text of the card, or None.
        root: Directory of the set.
        what: Name of the card in notes.
    """
    user_content = user_content_of(card, user_front_matter)
    if user_content.broken and card is not None:
        work = work_beside(root)
        refuse_links(work.parent, [work.name])
        kept = work / f"README-{digest(card)}.md"
        write_bytes(kept, card.encode("utf-8", "surrogateescape"))
        note(f"{what}: {user_content.broken}; it is rendered again, and the old card is kept in {kept}")
        return UserContent(matter=user_content.matter)
    if user_content.overwritten:
        note(f"{what}: text inside ddkit's marks is replaced; write before or after them to keep it")
    return user_content


def stale_renderings(manifest: Manifest) -> list[str]:
    """Return the rendered files of a set that are missing or of another content; none: rendering was finished.

    Args:
        manifest: The set.
    """
    return stale_files(manifest) + ([] if (manifest.root / PREVIEW).is_file() else [PREVIEW])


def publish_files(manifest: Manifest) -> None:
    """Render README.md, `_info.json` and `preview.png` into the set, keeping user content of the card.

    Args:
        manifest: The set.
    """
    path = manifest.root / "README.md"
    for name, data in card_files(manifest, parse_user_content(card_text(path), manifest.root, str(path))).items():
        write_bytes(manifest.root / name, data)
