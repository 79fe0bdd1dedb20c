"""The house: imports go one way, files stay small, methods do not know each other."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import ddkit

ROOT = Path(ddkit.__file__).parent
PYPROJECT = (ROOT.parent / "pyproject.toml").read_text()

# The printed order (README): a room imports only rooms above it, inside a room a file only files above it.
ROOMS = {
    "text": [],
    "errors": [],
    "core": [
        *("worker_state", "serialization", "front_matter", "seeds", "console", "device", "faults", "files", "signing"),
        *("locks", "signals", "distributed"),
    ],
    "plugins": [],
    "specs": [],
    "engine": [
        *(
            "units",
            "heartbeats",
            "claims",
            "jobs",
            "local",
            "ranks",
            "ray_files",
            "ray_cluster",
            "selection",
            "slurm",
            "interleaving",
        ),
        "cuda_graphs",
    ],
    "hub": ["responses", "eval_results", "retries", "repositories"],
    "format": [
        *(
            "views",
            "resampling",
            "resize_tables",
            "view_kernel",
            "view_pixels",
            "codecs.interface",
            "codecs.fidelity",
            "codecs.fp16",
            "codecs.int8",
        ),
        *("codecs.top", "codecs.topk", "codecs.lowrank", "codecs.sampled", "codecs.teacher", "codecs.registry"),
        *("images", "tars", "fields", "entries", "row_records", "views_member", "shards", "results", "label_info"),
        *(
            "measurements",
            "manifest",
            "label_file",
            "consistency",
            "manifest_file",
            "damage",
            "surviving_members",
            "row_format",
        ),
        *("reading", "verification"),
    ],
    "sources": [
        *(
            "decoding",
            "digits",
            "classes",
            "packed",
            "archives",
            "torch_files",
            "published_labels",
            "tar_checks",
            "online",
        ),
        *("tables", "reading", "images", "outlines", "validation", "exporting"),
    ],
    "sets": ["opening", "copies"],
    "networks": ["registry", "checkpoints", "pretrained", "batch_norm", "steps", "training_state", "training"],
    "teachers": ["teacher", "carried", "teaching", "resolving"],
    "labelling": ["budget", "encoded", "labels", "published", "shared", "packing"],
    "replay": [
        *(
            "order",
            "positions",
            "buffers",
            "prefetching",
            "dataset_rows",
            "stores.interface",
            "stores.memory",
            "stores.dataset",
        ),
        *("stores.pixel_files", "stores.shard_files", "stores.mapped", "stores.subset", "opening", "soft_labels"),
        *("loader", "fresh", "pipelines"),
    ],
    "timm": [],
    "students": ["losses", "transforms", "training"],
    "synthesis": [
        *("objectives", "moments", "passes", "unit_progress", "settings", "interface", "crops", "patches"),
        *("initialisation", "inner.interface", "inner.pixel_optimiser", "inner.inversion", "inner.rded"),
        *("plain_inversion", "coresets", "curriculum"),
    ],
    "distillers": [],
    "publishing": [
        *(
            "pictures",
            "diagnostics",
            "escaping",
            "user_content",
            "licences",
            "verdicts",
            "summaries",
            "templates",
            "rendering",
            "looking",
            "pushing",
            "pulling",
        ),
        *("model_repositories", "page.images", "page.data", "page.rendering", "spaces"),
    ],
    "pipeline": [
        *(
            "record",
            "options",
            "growing",
            "costs",
            "speeds",
            "pricing",
            "synthesis_units",
            "unit_groups",
            "run",
            "describing",
        ),
        *("sharing", "budgeting", "units", "choices", "resolving", "distilling", "footprint", "planning", "recoding"),
        *("relabelling", "importing", "kept_units", "gathering", "repairing"),
    ],
    "evaluation": [
        *("statistics", "training_data", "membership", "neighbours", "corruptions.tables", "corruptions.filters"),
        *("corruptions.noise", "corruptions.blur", "corruptions.frost", "corruptions.weather", "corruptions.edges"),
        *("corruptions.spatter", "corruptions.digital", "corruptions.registry", "measures.interface"),
        *("measures.accuracy", "measures.bytes", "measures.calibration", "measures.continual"),
        *("measures.corruptions", "measures.cross_architecture"),
        *("measures.diversity", "measures.leakage", "measures.per_class", "measures.ranking"),
        *("measuring", "entries", "tracking", "students", "equal_bytes", "subject", "baselines", "cells"),
        *("measured_tables", "tables", "demonstration", "ddranking", "published", "reproducing"),
    ],
    "listing": [],
    "testing": [],
    "mutator": [],
    "cli": ["output", "options", "make", "use", "measure", "study", "look", "publish", "app"],
}


def imports(path: Path) -> set[str]:
    """Names of ddkit modules a file imports, those for type checking left out."""
    found = set()
    tree = ast.parse(path.read_text())
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ddkit":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {node.module, *(n for n in names if (ROOT.parent / (n.replace(".", "/") + ".py")).exists())}
            found |= {n for n in names if (ROOT.parent / n.replace(".", "/")).is_dir()}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "ddkit"}
    return found


def place(module: str) -> tuple[float, float]:
    """(room, file) positions of `ddkit.room.file`; the __init__ of a folder comes after its files."""
    _, room, *file = *module.split("."), ""
    if room not in ROOMS:
        return (-1, -1)  # ddkit itself: the version
    files, name = ROOMS[room], ".".join(part for part in file if part)
    inside = [i for i, known in enumerate(files) if known == name or known.startswith(f"{name}.")]
    if name and inside:
        return (list(ROOMS).index(room), inside[-1] + (0 if name in files else 0.5))
    return (list(ROOMS).index(room), len(files))


def violations(root: Path) -> list[str]:
    wrong = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root.parent).with_suffix("")
        module = ".".join(relative.parts).removesuffix(".__init__")
        mine = place(module)
        if mine == (-1, -1):
            continue
        for other in imports(path):
            theirs = place(other)
            if other != module and (
                theirs[0] > mine[0]
                or (theirs[0] == mine[0] and theirs[1] >= mine[1] and not module.startswith(f"{other}."))
            ):
                wrong.append(f"{module} imports {other}")
            if module.startswith("ddkit.distillers.") and other.startswith("ddkit.distillers"):
                wrong.append(f"{module} imports its sibling {other}")
    return wrong


def test_every_file_has_its_place():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts in (("__init__",), ("__main__",)) or parts[-1] == "__init__":
            continue
        assert parts[0] in ROOMS, f"{path} is in no room of the printed order"
        file = ".".join(parts[1:])
        assert parts[0] == "distillers" or not file or file in ROOMS[parts[0]], f"{path} has no place"


def test_imports_go_one_way():
    assert violations(ROOT) == []


def test_the_test_can_fail(tmp_path):
    wrong = tmp_path / "ddkit" / "format"
    wrong.mkdir(parents=True)
    (wrong / "views.py").write_text("from ddkit.pipeline import distill\n")
    (wrong / "shards.py").write_text("from ddkit.format.manifest import Manifest\n")
    found = violations(tmp_path / "ddkit")
    assert "ddkit.format.views imports ddkit.pipeline" in found
    assert "ddkit.format.shards imports ddkit.format.manifest" in found


def test_files_and_functions_are_short_and_rooms_say_what_they_are_for():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert _lines_of_code(node) <= 60, f"{path}: {node.name}"
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is for"


def _lines_of_code(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = function.body[0] if ast.get_docstring(function) else None
    return (function.end_lineno or 0) - function.lineno + 1 - (0 if doc is None else doc.end_lineno - doc.lineno + 1)


def test_no_cache_in_memory_but_the_workers_state():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [ast.unparse(decorator) for decorator in node.decorator_list]
                assert not any(name.startswith(("functools.cache(", "functools.lru_cache")) for name in names), path
                assert "functools.cache" not in names, f"{path}: {node.name}"


def test_no_module_has_the_name_of_a_public_function():
    modules = {path.stem for path in ROOT.rglob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert modules.isdisjoint(ddkit.__all__)


def test_no_pickle_no_extraction_no_bare_except():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}: bare except"
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                assert node.attr not in ("extractall", "extract"), f"{path}: {name}"
                assert name not in ("torch.load", "pickle.load", "pickle.loads", "np.load"), f"{path}: {name}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "pickle" not in ast.unparse(node), path


PRIVATE = {"huggingface_hub.utils._http"}  # the client's own hooks (offline mode, debug log) are not exported


def test_private_names_of_the_hubs_libraries_are_those_that_have_no_public_one():
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "huggingface_hub",
                "datasets",
            ):
                found |= {name for a in node.names if "._" in (name := f"{node.module}.{a.name}")}
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("_indices", "_data", "_info"), f"{path}: {ast.unparse(node)}"
    assert found == PRIVATE


def test_every_direct_import_is_declared():
    project = tomllib.loads(PYPROJECT)["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["ray"]]
    declared = {re.split(r"[>=\[]", line)[0] for line in lines}
    names = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
    known = {names.get(name, name) for name in declared} | set(sys.stdlib_module_names) | {"ddkit"}
    known.add("triton")  # comes with torch where it has CUDA, and is used there only
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert {module.split(".")[0] for module in modules} <= known, f"{path}: {modules}"
