"""What is installed: light imports, version and changelog, the wheel with its card templates."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ddkit

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "datasets", "sklearn", "matplotlib", "huggingface_hub", "timm", "scipy")

LIGHT = """
import sys
sys.argv = ["ddkit", "--help"]
import ddkit
{more}
from ddkit.cli.app import run
assert run() == 0
heavy = [name for name in {heavy!r} if name in sys.modules]
sys.exit(f"heavy: {{heavy}}" if heavy else 0)
"""


def light(more=""):
    code = LIGHT.format(more=more, heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_import_and_help_load_nothing_heavy():
    run = light()
    assert run.returncode == 0 and "distill" in run.stdout, run.stderr


def test_the_test_can_fail():
    assert "heavy: ['torch']" in light("import torch").stderr


def test_public_names():
    public = {
        "DdkitError", "ReplayLoader", "__version__", "apply_view", "as_webdataset", "card", "decode_row", "distill",
        "eval_transform", "evaluate", "export", "import_images", "inspect", "list", "load_student", "plan", "preview",
        "pull", "push", "relabel", "repair", "report", "soft_label_loss", "teach", "train", "verify",
    }  # fmt: skip
    assert all(getattr(ddkit, name) is not None for name in public)
    assert set(dir(ddkit)) == public and set(ddkit.__all__) == public - {"list"}  # `import *` leaves the builtin alone
    with pytest.raises(AttributeError, match="nothing_here"):
        ddkit.nothing_here  # noqa: B018


def test_version_and_changelog_agree():
    heading = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M).group(1)  # below "Unreleased"
    assert heading == ddkit.__version__


def test_the_readme_tree_is_true():
    text = (ROOT / "README.md").read_text()
    tree = text.split("```text\n")[1].split("```")[0]
    named = re.findall(r"^(?:[│├└─ ]*)([\w./-]+)", tree, re.M)
    for room in (path.name for path in (ROOT / "ddkit").iterdir() if path.is_dir() and (path / "__init__.py").exists()):
        assert f"{room}/" in named, f"{room}/ is not in README's tree"
    for name in ("cli.py", "cards/", "tests/", "examples/", "benchmarks/"):
        assert name in named


WHEEL = """
import json, sys
from pathlib import Path
import ddkit
assert ddkit.__file__.startswith(sys.argv[1]), ddkit.__file__
from ddkit.publishing.rendering import render_card
from ddkit.publishing.templates import template_folder
from ddkit.format.manifest_file import read_manifest
assert template_folder().name == "card_templates", template_folder()
text = render_card(read_manifest(sys.argv[2]))
assert text.startswith("---") and "## What is inside" in text
from ddkit.specs import Protocol, Recipe
Protocol.load("common"), Recipe.load("rded-small")
from ddkit.sources.classes import class_subset
"""


def test_the_wheel_carries_what_it_needs(tmp_path, random_set):
    """Built, installed without dependencies into a fresh folder, and used from there (dependencies from here)."""
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run([*map(str, build), "--disable-pip-version-check"], check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "ddkit/card_templates/dataset_card.md.j2", "ddkit/card_templates/references.bib",
        "ddkit/recipes/rded-small.toml", "ddkit/recipes/teach/small.toml",
        "ddkit/protocols/common.toml", "ddkit/sources/lists/imagenette.txt", "ddkit/__main__.py",
    ):  # fmt: skip
        assert needed in names
    assert not [n for n in names if n.startswith(("cli", "tests", "benchmarks", "cards"))]
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([*map(str, install), "--disable-pip-version-check"], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    used = subprocess.run(
        [sys.executable, "-P", "-c", WHEEL, str(site), str(random_set.root)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert used.returncode == 0, used.stderr
    module = subprocess.run(
        [sys.executable, "-P", "-m", "ddkit", "list", "protocols"], cwd=tmp_path, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert module.returncode == 0 and "common" in module.stdout


def test_the_top_level_launcher():
    assert len([line for line in (ROOT / "cli.py").read_text().splitlines() if line.strip()]) <= 4
    told = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | {"OMP_DISPLAY_ENV": "VERBOSE"}
    command = [sys.executable, str(ROOT / "cli.py"), "list", "codecs"]
    run = subprocess.run(command, capture_output=True, text=True, env=told)
    assert run.returncode == 0 and "fp16" in run.stdout
    assert "GOMP_SPINCOUNT = '1000'" in run.stderr  # the command line set it before torch was loaded
