"""Settings: strict, round-tripping, and the shipped recipes and protocols say what the papers say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.serialization import PACKAGE, canonical, fingerprint, from_plain, parse_settings, to_plain
from ddkit.distillers import find_distiller, make_config
from ddkit.errors import OptionError
from ddkit.specs import EvalTransform, Protocol, Recipe, TrainSpec, ViewSpec, protocol_label

PROTOCOLS = sorted(path.stem for path in (PACKAGE / "protocols").glob("*.toml"))


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 999), st.sampled_from(["none", "cutmix", "mixup"]))
def test_round_trip(low, flip, count, mix):
    spec = ViewSpec(scale=(low, 1.0), flip=flip, count=count, mix=mix)
    assert from_plain(ViewSpec, to_plain(spec), "x") == spec
    assert fingerprint(to_plain(spec)) == fingerprint(dict(reversed(to_plain(spec).items())))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"flop": 1}, "flop.*did you mean flip.*count"),
        ({"flip": "often"}, "flip is 'often'; it must be float"),
        ({"flip": 2}, "probability"),
        ({"scale": [0.5, 0.1]}, "low <= high"),
        ({"scale": [0.5]}, "scale"),
        ({"count": 0}, "at least 1"),
        ({"count": 1.5}, "count is 1.5"),
        ({"mix": "blend"}, "valid: none, cutmix, mixup"),
        ({"flip": float("nan")}, "flip is nan; it must be float"),
    ],
)
def test_wrong_values_are_named(data, words):
    with pytest.raises(OptionError, match=words):
        from_plain(ViewSpec, data, "protocol x")


def test_settings_from_the_command_line():
    assert parse_settings(["factor=2", "stitch=random", "a=[1, 2]", "b=true"]) == {
        "factor": 2, "stitch": "random", "a": [1, 2], "b": True,
    }  # fmt: skip
    with pytest.raises(OptionError, match="KEY=VALUE"):
        parse_settings(["factor"])


def test_canonical_json():
    assert canonical({"b": [1], "a": None}) == '{\n  "a": null,\n  "b": [\n    1\n  ]\n}'
    assert canonical({"b": 1, "a": "é"}, indent=None) == '{"a":"\\u00e9","b":1}'


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_loads(name):
    protocol = Protocol.load(name)
    assert protocol.about
    for dataset in (None, "cifar10", "cifar100", "tinyimagenet", "imagenet1k"):
        protocol.view_spec(patches=4, dataset=dataset)
        protocol.train_spec(ipc=10, arch="timm:resnet18.tv_in1k", dataset=dataset)


def test_common_is_fixed():
    protocol = Protocol.load("common")
    views, train = protocol.view_spec(), protocol.train_spec(ipc=10, arch="convnet3")
    assert (views.scale, views.ratio, views.flip, views.mix, views.count) == (
        (0.08, 1),
        (0.75, 4 / 3),
        0.5,
        "cutmix",
        300,
    )
    assert (train.optimiser, train.lr, train.weight_decay, train.schedule) == ("adamw", 1e-3, 0.01, "cosine")
    assert (train.loss, train.temperature) == ("kl", 20)
    assert [train.batch_for(n) for n in (10, 100, 3199, 3200)] == [10, 16, 16, 64]
    assert [train.epochs_for(n) for n in (100, 3200)] == [572, 300]


def test_rded_follows_the_authors():
    protocol = Protocol.load("rded")
    assert [protocol.train_spec(ipc=i, arch="convnet3").batch for i in (1, 10, 50)] == [10, 50, 100]
    assert protocol.train_spec(ipc=10, arch="convnet3", dataset="imagenet1k").batch_for(10_000) == 100
    assert protocol.train_spec(ipc=1, arch="convnet3").batch_for(5) == 5
    tiny = [protocol.train_spec(ipc=i, arch="x", dataset="tinyimagenet").batch_for(10_000) for i in (1, 10, 50)]
    assert tiny == [100, 100, 100]
    assert protocol.train_spec(ipc=10, arch="torchvision:mobilenet_v2").lr == 2.5e-3
    assert protocol.view_spec(patches=4).scale == (0.5, 1) and protocol.view_spec(patches=4).patches == "shuffle"
    assert protocol.view_spec(patches=1).scale == (1, 1) and protocol.view_spec(patches=1).patches == "none"


def test_cudd_counts_and_budgets():
    protocol = Protocol.load("cudd")
    assert protocol.view_spec(dataset="cifar10").count == 1000 and protocol.view_spec(dataset="imagenet1k").count == 300
    budgets = {
        d: protocol.train_spec(ipc=10, arch="convnet3", dataset=d)
        for d in ("cifar10", "cifar100", "tinyimagenet", "imagenet1k", "imagenet21k")
    }
    assert {d: (t.epochs, t.batch_for(10**6)) for d, t in budgets.items()} == {
        "cifar10": (1000, 16), "cifar100": (1000, 64), "tinyimagenet": (500, 64), "imagenet1k": (300, 128),
        "imagenet21k": (300, 32),
    }  # fmt: skip


def test_protocol_errors(tmp_path):
    with pytest.raises(OptionError, match="common"):
        Protocol.load("comon")
    with pytest.raises(OptionError, match="does not exist"):
        Protocol.load(str(tmp_path / "none.toml"))
    bad = tmp_path / "bad.toml"
    bad.write_text("[views]\nflop = 1\n")
    with pytest.raises(OptionError, match="flop"):
        Protocol.load(str(bad))
    for text, words in (
        ("dataset = 3\n", "dataset"),
        ("[dataset]\nx = 3\n", "must be tables"),
        ('[arch."x".train]\nbatch = "big"\n', "batch"),
        ('[dataset."x".ipc."1".train]\nbach = 1\n', "did you mean batch"),
        ("[views]\nscale = 0.5\n", "scale"),
    ):
        bad.write_text(text)
        with pytest.raises(OptionError, match=words):
            Protocol.load(str(bad))
    bad.write_text('[ipc."10".views]\nflip = 1\n')
    with pytest.raises(OptionError, match="valid: train"):
        Protocol.load(str(bad))
    assert protocol_label("cudd", 600) == "cudd+epochs=600" and protocol_label("cudd", None) == "cudd"


def test_laws_are_compared_without_what_does_not_act():
    assert ViewSpec(mix="none", mix_alpha=0.3, count=1).comparable() == ViewSpec(mix="none", count=9).comparable()
    assert ViewSpec(mix_alpha=0.3).comparable() != ViewSpec().comparable()


# RDED, Table 2 (IPC 1/10/50): ConvNet, ResNet-18, ResNet-101 student; factor; ids of the dataset; ConvNet.
TABLE_2 = {
    "cifar10": ("23.5/50.2/68.4", "22.9/37.1/62.1", "18.7/33.7/51.6", 1, ("uoft-cs/cifar10", "cifar10"), "convnet3"),
    "cifar100": ("19.6/48.1/57.0", "11.0/42.6/62.6", "10.8/41.1/63.4", 1, ("uoft-cs/cifar100", "cifar100"), "convnet3"),
    "imagenette": ("28.9/59.0/83.1", "27.7/62.7/84.4", "24.3/53.3/80.9", 2, ("frgfm/imagenette",), "convnet5"),
    "imagewoof": ("18.0/40.1/60.8", "17.9/44.4/71.7", "18.0/35.9/66.1", 2, ("frgfm/imagewoof",), "convnet5"),
    "tinyimagenet": ("12.0/39.6/47.6", "9.7/41.9/58.2", "3.8/22.9/41.2", 1, ("zh-plus/tiny-imagenet",), "convnet4"),
    "imagenet100": ("7.0/27.2/47.8", "7.7/35.4/64.8", "5.7/31.3/67.3", 2, ("clane9/imagenet-100",), "convnet6"),
    "imagenet1k": ("6.4/20.4/38.4", "6.6/42.0/56.5", "5.9/48.3/61.2", 2, ("ILSVRC/imagenet-1k",), "convnet4"),
}


@pytest.mark.parametrize("dataset", TABLE_2)
def test_recipes_hold_table_2(dataset):
    convnet, r18, r101, factor, sources, network = TABLE_2[dataset]
    for name, numbers in ((f"rded-{dataset}", (r18, r101)), (f"rded-{dataset}-{network}", (convnet,))):
        recipe = Recipe.load(name)
        assert (recipe.method, recipe.protocol, recipe.dataset) == ("rded", "rded", dataset)
        assert recipe.config == {"pool": 300, "factor": factor, "crops": 5, "stitch": "ranked"}
        header = (PACKAGE / "recipes" / f"{name}.toml").read_text()
        assert all(number in header for number in numbers) and "ost" in header
    main = Recipe.load(f"rded-{dataset}")
    assert main.sources == sources and not Recipe.load(f"rded-{dataset}-{network}").sources
    assert {Recipe.choose("rded", source, size).name for source in sources for size in (32, 224)} == {main.name}
    assert Recipe.load(f"rded-{dataset}-{network}").teacher == network


def test_every_recipe_loads_and_fits_its_method():
    recipes = Recipe.shipped()
    assert {"rded-small", "rded-large", "rded-digits"} <= {recipe.name for recipe in recipes}
    for recipe in recipes:
        make_config(find_distiller(recipe.method), recipe.config)
        Protocol.load(recipe.protocol)
        assert recipe.name.startswith(f"{recipe.method}-")


def test_choosing_a_recipe():
    assert Recipe.choose("rded", "uoft-cs/cifar10@abc", 32).name == "rded-cifar10"
    assert Recipe.choose("rded", "digits", 32).name == "rded-digits"
    assert Recipe.choose("rded", "/data/x", 32).name == "rded-small"  # however many classes it has
    assert Recipe.choose("rded", "/data/x", 64).name == "rded-small"
    assert Recipe.choose("rded", "/data/x", 128).name == "rded-large"
    assert Recipe.choose("random", "/data/x", 128).protocol == "common"


def test_evaluation_rule():
    assert [EvalTransform.for_size(s).resize for s in (32, 64, 224)] == [32, 72, 256]


def test_teacher_recipes_load():
    from ddkit.teachers.teaching import teacher_recipe

    for path in (PACKAGE / "recipes" / "teach").glob("*.toml"):
        assert isinstance(teacher_recipe(path.stem, "x", 32, 3), TrainSpec)
        assert re.match("# ", path.read_text())


@pytest.mark.parametrize(
    "wrong",
    [{"batch_from": (0, 0)}, {"warmup": 5.0}, {"min_steps": -1}, {"weight_decay": -0.1}, {"label_smoothing": -1.0}],
)
def test_impossible_trainings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainSpec(**wrong)
