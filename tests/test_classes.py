import cProfile
import pstats
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddkit
from ddkit.errors import ClassesError
from ddkit.sources.classes import class_subset, match_classes, name_classes, unique_names
from ddkit.specs import ClassName


def named(*names):
    return [ClassName(name=name) for name in names]


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=8, unique=True), st.randoms())
def test_any_order_of_the_same_names_matches(names, random):
    given_names = list(names)
    random.shuffle(given_names)
    order = match_classes(named(*names), named(*given_names), what="a and b")
    assert [given_names[i] for i in order] == names


def test_matching_compares_each_class_only_with_those_that_share_a_key():
    """ImageNet-21K has ten thousand classes: comparing every pair would take minutes."""
    names = named(*(f"n{i:08d}_word {i}, other {i}" for i in range(3000)))
    backwards = names[::-1]
    with cProfile.Profile() as profile:
        order = match_classes(names, backwards, what="a and b")
    assert (order == np.arange(3000)[::-1]).all()
    assert pstats.Stats(profile).total_calls < 100 * 3000


def test_ids_names_lemmas():
    folders = name_classes(["n01440764", "n01443537_goldfish"])
    hub = [
        ClassName(name="goldfish, Carassius auratus", id="n01443537"),
        ClassName(name="tench, Tinca tinca", id="n01440764"),
    ]
    assert match_classes(folders, hub, what="x").tolist() == [1, 0]
    assert match_classes(named("Goldfish", "tench"), hub, what="x").tolist() == [0, 1]
    assert match_classes(named("A", "a"), named("a", "A"), what="x").tolist() == [1, 0]
    assert match_classes(named("tabby cat"), named("tabby_cat, tabby"), what="x").tolist() == [0]


def test_imagenet_names_get_their_ids():
    classes = name_classes(["tench, Tinca tinca", "goldfish, Carassius auratus"])
    assert [c.id for c in classes] == ["n01440764", "n01443537"]
    assert [c.id for c in name_classes(["cat", "dog"])] == [None, None]
    assert match_classes(classes, name_classes(["n01443537", "n01440764"]), what="x").tolist() == [1, 0]


def test_shipped_lists_are_classes_of_imagenet():
    from timm.data import ImageNetInfo

    imagenet = name_classes(ImageNetInfo().label_names())
    lists = {path.stem for path in (Path(ddkit.__file__).parent / "sources" / "lists").glob("*.txt")}
    found = {name: class_subset(name, imagenet) for name in lists}
    assert {name: len(indices) for name, indices in found.items()} == {
        "imagenette": 10, "imagewoof": 10, "imagenet-10": 10, "imagenet-100": 100
    }  # fmt: skip
    assert (found["imagenet-100"][:10] == found["imagenet-10"]).all()


def test_what_does_not_match_is_refused_with_both_sides():
    with pytest.raises(ClassesError, match="crane.*no partner among.*crane bird, crane.*same_order") as told:
        match_classes(named("crane"), named("crane bird, crane", "crane machine, crane"), what="the set and --val")
    assert "--same-order" in told.value.command_line
    with pytest.raises(ClassesError, match="f and 2 more"):
        match_classes(named(*"bcdefgh"), named(*"xyz"), what="x")
    assert match_classes(named("a", "b"), named("0", "1"), what="x", same_order=True).tolist() == [0, 1]
    with pytest.raises(ClassesError, match="same number"):
        match_classes(named("a"), named("0", "1"), what="x", same_order=True)
    assert isinstance(match_classes(named("a"), named("a"), what="x"), np.ndarray)


def test_names_for_a_class_label_are_unique():
    import datasets

    cranes = [ClassName(name="crane", id="n02012849"), ClassName(name="crane", id="n03126707"), ClassName(name="ant")]
    assert unique_names(cranes) == ["crane (n02012849)", "crane (n03126707)", "ant"]
    datasets.ClassLabel(names=unique_names([ClassName(name="a"), ClassName(name="a")]))
