"""Every shipped recipe against the papers' hyper-parameters, typed here a second time."""

import re

import pytest

from ddkit.core.serialization import PACKAGE
from ddkit.distillers import distiller_names, find_distiller, make_config
from ddkit.specs import Protocol, Recipe

# (method, dataset): learning rate, steps, weight of the BatchNorm term, jitter
RECOVER = {
    ("sre2l", "imagenet1k"): (0.25, 4000, 0.01, 32),
    ("sre2l", "tinyimagenet"): (0.1, 4000, 1.0, 4),
    ("sre2l", "cifar100"): (0.25, 1000, 0.01, 4),
    ("sre2l", "cifar10"): (0.25, 1000, 0.01, 4),
    ("sre2l", "imagenet21k"): (0.05, 2000, 0.25, 32),
    ("cda", "imagenet1k"): (0.25, 4000, 0.01, 32),
    ("cda", "tinyimagenet"): (0.4, 4000, 0.05, 4),
    ("cda", "imagenet21k"): (0.05, 2000, 0.25, 32),
    ("cda", "cifar10"): (0.25, 1000, 0.01, 4),
    ("cda", "cifar100"): (0.25, 1000, 0.01, 4),
    ("cudd", "imagenet1k"): (0.25, 4000, 0.01, 32),
    ("cudd", "tinyimagenet"): (0.25, 4000, 0.05, 4),
    ("cudd", "cifar100"): (0.25, 1000, 0.01, 4),
    ("cudd", "cifar10"): (0.25, 1000, 0.01, 4),
    ("cudd", "imagenet21k"): (0.05, 2000, 0.25, 32),
}
SOURCES = {  # the ids that each dataset has; ImageNet-21K-P's is its name in `ddkit plan`
    "cifar10": ("uoft-cs/cifar10", "cifar10"), "cifar100": ("uoft-cs/cifar100", "cifar100"),
    "tinyimagenet": ("zh-plus/tiny-imagenet",), "imagenet1k": ("ILSVRC/imagenet-1k",),
    "imagenet21k": ("imagenet-21k-p",),
}  # fmt: skip
STUDENT = {  # half of the final training's epochs, and its batch
    "cifar10": (500, 16), "cifar100": (500, 64), "tinyimagenet": (250, 64), "imagenet1k": (150, 128),
    "imagenet21k": (150, 32),
}  # fmt: skip


@pytest.mark.parametrize("recipe", Recipe.shipped(), ids=lambda recipe: recipe.name)
def test_every_recipe_can_be_run_and_says_what_it_is(recipe):
    module = find_distiller(recipe.method)
    make_config(module, recipe.config)
    Protocol.load(recipe.protocol)
    assert recipe.name.startswith(recipe.method)
    header = (PACKAGE / "recipes" / f"{recipe.name}.toml").read_text().splitlines()[0]
    assert header.startswith("# ") and len(header) > 20
    assert recipe.protocol == "common" or recipe.protocol == recipe.method


@pytest.mark.parametrize(("method", "dataset"), RECOVER, ids="-".join)
def test_the_papers_rows(method, dataset):
    lr, steps, weight, jitter = RECOVER[method, dataset]
    names = [r for r in Recipe.shipped() if r.method == method and r.dataset == dataset]
    assert names, f"no recipe for {method} on {dataset}"
    for recipe in names:
        config = make_config(find_distiller(method), recipe.config)
        if method == "cudd":
            assert config.among == "random"
        assert (config.lr, config.steps, config.bn.weight, config.crop.jitter) == (lr, steps, weight, jitter)
        assert config.batch.size == 100 and config.bn.first == 10 and config.weight_decay == 0
        assert (config.bn.norm, config.bn.moment, config.bn.targets) == ("sum", "variance", "global")
        assert config.crop.direction == ("global-to-local" if method == "cda" else "constant")
        assert config.crop.both == ((method, dataset) == ("sre2l", "tinyimagenet"))
        if method == "cda":
            assert (config.crop.curve, config.crop.milestone, config.crop.antialias) == ("cosine", 1.0, False)
        plain = method == "sre2l" and dataset.startswith("cifar")  # the authors' script only rolls there
        assert (config.crop.min, config.crop.flip) == ((1.0, 0.0) if plain else (0.08, 0.5))
        if method == "cudd":
            init = "patch" if recipe.name.startswith("cudd-plus") else "real"
            assert (config.init, config.stages, config.inner) == (init, "paper", "inversion")
            assert (config.reg.weight, config.reg.space) == (1.0, "pixel")
            assert (config.adv.weight, config.adv.mask, config.adv.form) == (1.0, "teacher", "stable")
            student = config.student
            assert (student.epochs, student.batch) == STUDENT[dataset]
            assert (student.init, student.lr, student.scratch_lr, student.temperature) == ("warm", 5e-4, 1e-3, 20)
        else:
            assert config.init == "noise" and config.reg.weight == config.adv.weight == 0
        assert recipe.sources == (SOURCES[dataset] if recipe.name == f"{method}-{dataset}" else ())
        header = (PACKAGE / "recipes" / f"{recipe.name}.toml").read_text().splitlines()
        assert header[1].startswith("# Paper") and header[2].startswith("# Cost in the paper")


def test_cudds_accuracies_in_the_headers():
    text = {r.name: (PACKAGE / "recipes" / f"{r.name}.toml").read_text() for r in Recipe.shipped()}
    for name, numbers in {
        "cudd-cifar10": "56.2/84.5", "cudd-cifar100": "60.3/65.7", "cudd-tinyimagenet": "55.6/56.8",
        "cudd-imagenet1k": "39.0/57.4/61.3/65.0", "cudd-imagenet21k": "28.0/34.9",
        "cudd-cifar10-convnet3": "56.9/72.7", "cudd-cifar100-convnet3": "49.0/57.5",
        "sre2l-imagenet1k": "21.3/46.8/52.8/57.0", "cda-imagenet1k": "33.5/53.5/58.0/63.3",
        "cda-tinyimagenet": "48.7/53.2", "sre2l-tinyimagenet": "41.1/49.7", "cda-imagenet21k": "22.6/26.4",
    }.items():  # fmt: skip
        assert re.search(rf"# Paper.*{re.escape(numbers)}", text[name])


def test_every_method_has_a_recipe_for_small_and_for_large_images():
    names = {recipe.name for recipe in Recipe.shipped()}
    for method in distiller_names():
        assert {f"{method}-small", f"{method}-large"} <= names
        assert Recipe.choose(method, "photos", 48).name == f"{method}-small"
        assert Recipe.choose(method, "photos", 224).name == f"{method}-large"


def test_the_recipe_is_chosen_by_id_then_by_size():
    assert Recipe.choose("cudd", "uoft-cs/cifar10@abc", 32).name == "cudd-cifar10"
    assert Recipe.choose("cudd", "a-folder", 32).name == "cudd-small"  # a paper's recipe is for its dataset alone
    assert Recipe.choose("cudd", "digits", 32).name == "cudd-digits"
    assert Recipe.choose("cda", "ILSVRC/imagenet-1k", 224).name == "cda-imagenet1k"
