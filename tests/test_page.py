"""The page: one file that requests nothing, hostile names stay text, and a browser shows and works it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import chromium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from ddkit.cli.app import app
from ddkit.errors import IntegrityError, Refused
from ddkit.format.manifest import ClassInfo
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.measurements import (
    Measurement,
    Measurements,
    StoredCurve,
    StoredFigure,
    read_measurements,
    write_measurements,
)
from ddkit.format.results import Difference, ResultEntry
from ddkit.format.view_pixels import apply
from ddkit.pipeline import distill
from ddkit.publishing.page import images
from ddkit.publishing.page.data import as_json, page_sets
from ddkit.publishing.page.rendering import current_page, render_page, report
from ddkit.publishing.pushing import push
from ddkit.replay.stores.memory import load_set

HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>"
ALIKE = {"ipc": 2, "arch": "convnet3", "protocol": "demo", "val": "digits:test", "seeds": (0, 1)}
WHERE = {"command": "test", "hardware": "here"}


def result(of, labels, values, **changes):
    mean = float(np.mean(values))
    difference = (
        Difference(mean=mean - 50, low=mean - 51, high=mean - 49, pairs=2, to="random") if of == "this" else None
    )
    return ResultEntry(
        of=of, labels=labels, n_sets=1, n_students=len(values), values=(tuple(values),), mean=mean, std=1.0,
        difference=difference, total_bytes=1000 + int(mean), seconds=3.0, **(ALIKE | WHERE | changes),
    )  # fmt: skip


def measured(measure, metric, value, condition="", of="this", labels="stored", **changes):
    return Measurement(
        measure=measure, metric=metric, title=f"{metric} of {measure}", unit="%", better="higher", condition=condition,
        of=of, labels=labels, n=100, values=((value, value + 1),), mean=value + 0.5, std=0.5,
        **(ALIKE | WHERE | changes),
    )  # fmt: skip


def everything(classes):
    found = [measured("accuracy", "top-1", 60.0), measured("accuracy", "top-1", 50.0, of="random"),
             measured("mine", "first", 7.0), measured("mine", "first", 3.0, "any condition")]  # fmt: skip
    found += [measured("corruptions", "top-1", 10.0 * s, f"fog, severity {s}") for s in (1, 3, 5)]
    found += [measured("continual", "top-1", 90.0 - s, f"step {s}: {2 * s} classes") for s in (1, 2, 3)]
    found += [measured("per-class", "accuracy", float(i), name) for i, name in enumerate(classes)]
    found += [measured("per-class", "confusion", 12.0, f"{classes[0]} > {classes[1]}")]
    return tuple(found)


@pytest.fixture(scope="module")
def shown(random_set, tmp_path_factory):
    """A set with results, measurements, curves and figures, beside its OUT.work."""
    root = Path(shutil.copytree(random_set.root, tmp_path_factory.mktemp("page") / "set"))
    work = root.with_name("set.work")
    shutil.copytree(f"{random_set.root}.work", work)
    manifest = read_manifest(root)
    names = [HOSTILE, *manifest.class_names[1:]]
    classes = tuple(ClassInfo(name=name, id=None) for name in names)
    results = (result("this", "stored", [60, 61]), result("this", "hard", [40, 41]),
               result("random", "stored", [50, 51]),
               result("this", "stored", [55, 56], arch="convnet3-in"),
               result("teacher", "hard", [90], protocol="-", seeds=(0,)))  # fmt: skip
    write_manifest(root, manifest.changed(classes=classes, results=results))
    (work / "measures").mkdir()
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(work / "measures" / "pairs.png")
    spec = {"data": {"values": [{"x": 1, "y": 2, "url": "kept: it is data"}]}, "mark": "point",
            "encoding": {a: {"field": a, "type": "quantitative"} for a in "xy"}}  # fmt: skip
    (work / "measures" / "map.json").write_text(json.dumps(spec))
    figures = tuple(
        StoredFigure(
            private=name == "pairs",
            measure="diversity",
            name=name,
            caption=f"Shows {HOSTILE}",
            of="this",
            kind=kind,
            file=f"measures/{file}",
        )
        for name, kind, file in (("pairs", "png", "pairs.png"), ("map", "vega-lite", "map.json"))
    )
    curve = StoredCurve(
        of="this", ipc=2, arch="convnet3", protocol="demo", labels="stored", val="digits:test", epochs=(1, 2, 3),
        losses=((3.0, 2.0, 1.0), (3.0, 2.5, 1.5)), accuracies=((10.0, 40.0, 30.0), (10.0, None, 35.0)),
        best=(40.0, 35.0),
    )  # fmt: skip
    write_measurements(
        work, Measurements(content=manifest.content, measurements=everything(names), figures=figures, curves=(curve,))
    )
    return root


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_file_names_no_address_and_hostile_names_stay_data(shown):
    text = render_page([shown])
    parser = Elements()
    parser.feed(text)
    tags = [tag for tag, _ in parser.found]
    assert tags.count("script") == 4 and "img" not in tags and "link" not in tags and "iframe" not in tags
    for tag, attributes in parser.found:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert data[0]["classes"][0] == HOSTILE and len(data[0]["images"]) == 20
    assert "evil.example/x onerror" not in text.replace(text[start : text.index("</script>", start)], "")


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_survives_in_the_script_element(text):
    from ddkit.publishing.page.data import PageSet

    one = PageSet(text, text, [(text, text)], [text], 1.0, [], [], [], [], {}, 32, 32, [])
    found = as_json([one])
    assert json.loads(found)[0]["title"] == text and not set(found) & set("<>&\u2028\u2029")


def test_views_and_labels_are_those_of_the_set(shown):
    (one,) = page_sets([read_manifest(shown)])
    store = load_set(read_manifest(shown))
    rows = np.concatenate([np.flatnonzero(store.labels == label) for label in range(10)])
    for row, image in zip(rows[:6], one.images):
        assert image.c == store.labels[row] and image.src.startswith("data:image/png;base64,")
        for view, shown_view in enumerate(image.views):
            assert list(shown_view.box) == store.all_views.box[row, view].tolist()
            assert shown_view.patches == ()
            logits = store.logits(np.array([row]), np.array([view]))[0]
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            best = np.argsort(-logits, kind="stable")
            assert [one.c for one in shown_view.top] == best[: len(shown_view.top)].tolist()
            assert shown_view.top[0].sharp == pytest.approx(float(p.max()), abs=1e-3)


def test_only_shown_soft_labels_are_decoded(shown, monkeypatch):
    decoded = []

    def logits(self, tensors, inputs, rows=None):
        decoded.append(len(inputs))
        return torch.zeros(len(inputs), 10)

    monkeypatch.setattr(images.SoftLabels, "logits", logits)
    monkeypatch.setattr(images, "PER_CLASS", 1)
    monkeypatch.setattr(images, "BATCH", 4)
    page_sets([read_manifest(shown)])
    assert sum(decoded) == 10 * images.VIEWS and max(decoded) == 4


def test_sets_share_the_largest_number_of_images(shown, monkeypatch):
    monkeypatch.setattr(images, "MOST_IMAGES", 6)
    found = page_sets([read_manifest(shown)] * 2)
    assert [len(one.images) for one in found] == [3, 3]


@pytest.fixture(scope="module")
def mixup_set(teacher, tmp_path_factory):
    root = tmp_path_factory.mktemp("mixup")
    protocol = root / "mixup.toml"
    protocol.write_text('[views]\nmix = "mixup"\nmix_alpha = 0.8\ncount = 2\n')
    return distill(
        root / "set", data="digits", method="random", ipc=1, protocol=str(protocol), teacher=teacher, workers=1
    )


def test_mixing_names_the_other_image(rded_set, mixup_set, monkeypatch):
    monkeypatch.setattr(images, "PER_CLASS", 2)
    for manifest in (rded_set, mixup_set):
        (one,), store = page_sets([manifest]), load_set(manifest)
        rows = np.concatenate([np.flatnonzero(store.labels == label)[:2] for label in range(10)])
        mixed = []
        for row, image in zip(rows, one.images):
            for view, shown_view in enumerate(image.views):
                partner = int(store.partners_of(np.array([row]))[0, view])
                if store.all_views.mix_box is not None and not store.all_views.mix_box[row, view].any():
                    partner = -1
                assert (shown_view.mixed is None) == (partner < 0)
                if shown_view.mixed is None:
                    continue
                mixed.append(shown_view.mixed)
                assert shown_view.mixed.c == store.labels[partner]
                found = [i for i, other in enumerate(rows) if other == partner]
                assert shown_view.mixed.image == (found[0] if found else None)
                if store.all_views.mix_box is None:
                    share = 1 - store.all_views.mix_lam[row, view]
                    assert shown_view.mixed.region is None and shown_view.mixed.share == pytest.approx(share, abs=1e-3)
                else:
                    assert list(shown_view.mixed.region) == store.all_views.mix_box[row, view].tolist()
        assert mixed
        if manifest is rded_set:
            assert None in {one.image for one in mixed} and {one.image for one in mixed} != {None}


@pytest.mark.parametrize(
    "more", [{"data": {"url": "http://evil.example"}}, {"params": [{"signal": "x"}]}, {"href": "x"}]
)
def test_charts_that_load_something_are_refused(shown, tmp_path, more):
    root = Path(shutil.copytree(shown, tmp_path / "set"))
    shutil.copytree(shown.with_name("set.work"), tmp_path / "set.work")
    path = tmp_path / "set.work" / "measures" / "map.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    with pytest.raises(IntegrityError, match="loads data from elsewhere"):
        render_page([root])
    path.write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        render_page([root])
    found = read_measurements(root.with_name("set.work"))
    (tmp_path / "secret.json").write_text("{}")
    for outside in ("../secret.json", "measures/../../secret.json", str(tmp_path / "secret.json")):
        figure = found.figures[1].changed(file=outside)
        write_measurements(root.with_name("set.work"), found.changed(figures=(figure,)))
        with pytest.raises(IntegrityError, match=r"damaged \(figures"):
            render_page([root])
    path.unlink()
    path.symlink_to(tmp_path / "secret.json")
    write_measurements(root.with_name("set.work"), found)
    with pytest.raises(IntegrityError, match="link"):
        render_page([root])


def test_commands(shown, tmp_path):
    run = CliRunner().invoke(app, ["report", str(shown), "--out", str(tmp_path / "p.html")])
    assert run.exit_code == 0 and (tmp_path / "p.html").stat().st_size > 700_000
    run = CliRunner().invoke(app, ["view", str(shown), "--no-open", "--json"])
    page = Path(json.loads(run.stdout)["page"])
    before = page.stat().st_mtime_ns
    assert page == shown.with_name("set.work") / "page.html" and current_page(shown).stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_page_goes_to_a_static_space(hub, shown, monkeypatch):
    from huggingface_hub import constants

    from ddkit.publishing.spaces import push_space

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    push(shown, "lab/set", license="mit")
    address = push_space(shown, "lab/page", "A set", "lab/set")
    files = hub.repos["space", "lab/page"]
    assert address.endswith("/spaces/lab/page") and files.read("index.html").startswith(b"<!doctype html>")
    assert b"sdk: static" in files.read("README.md")
    page = files.read("index.html").decode()
    start = page.index('id="data">') + len('id="data">')
    (published,) = json.loads(page[start : page.index("</script>", start)])
    (here,) = page_sets([read_manifest(shown)])
    assert [one["name"] for one in published["figures"]] == ["map"]  # the other one shows real images
    assert [one["name"] for one in here.figures] == ["pairs", "map"]
    hub.forget_traffic()
    push_space(shown, "lab/page", "A set", "lab/set")
    assert not any("/commit/" in request for request in hub.requests)
    hub.add_repo("space", "lab/theirs", {"README.md": b"---\nsdk: static\n---\n"})
    with pytest.raises(Refused, match="did not make"):
        push_space(shown, "lab/theirs", "A set", "lab/set")


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")
def test_in_a_browser(shown, tmp_path):
    page_file = report(shown, tmp_path / "page.html")

    async def visit(page):
        run, until = page.run, page.until
        assert await run("document.querySelectorAll('main section').length") == 7
        await run("window.scrollTo(0, document.body.scrollHeight)")
        for section in ("results", "measures", "curves", "figures", "cost"):
            await run(f"document.getElementById('{section}').scrollIntoView()")
            await until(f"[...document.querySelectorAll('#{section} .chart')].every((c) => c.dataset.drawn)")
        assert await run("document.querySelectorAll('[data-drawn=failed]').length") == 0
        assert await run("document.querySelectorAll('.chart svg').length") >= 8
        # sorting and filtering
        rows = "[...document.querySelectorAll('#results tbody tr')].map((r) => r.children[5].textContent)"
        await run(
            "[...document.querySelectorAll('#results th button')].find((b) => b.textContent === 'accuracy').click()"
        )
        found = [float(text.split(" ")[0]) for text in await run(rows)]
        assert found == sorted(found, reverse=True) and len(found) == 5
        await run("{const s = document.querySelectorAll('#results select')[0]; s.value = 'convnet3-in';"
                  "s.dispatchEvent(new Event('change'))}")  # fmt: skip
        assert len(await run(rows)) == 1
        # an image by hovering and by the keyboard, a class by Enter
        await run("document.getElementById('images').scrollIntoView()")
        await run("document.querySelector('#images img').dispatchEvent(new MouseEvent('mouseenter'))")
        assert await run("document.querySelectorAll('#card rect.crop').length") == 4
        assert HOSTILE in await run("document.getElementById('card').textContent")
        await page.key("Escape")
        assert await run("document.getElementById('card').hidden")
        await run("document.querySelector('#images .class button').focus()")
        await page.key("Tab")
        assert not await run("document.getElementById('card').hidden")
        await run("document.querySelector('#images .class button').focus()")
        await page.key("Enter")
        assert "taken for 1 (12.50 %)" in await run("document.querySelector('.confusions').textContent")
        # the other theme draws the charts again
        await run("document.getElementById('theme').click()")
        assert await run("document.documentElement.dataset.theme") == "dark"
        await until("document.querySelectorAll('.chart svg').length >= 8")
        for name, width in (("desktop", 1280), ("phone", 390)):
            await page.resize(width, 900, phone=width < 500)
            assert await run("document.documentElement.scrollWidth <= innerWidth"), name
            await page.picture(tmp_path / f"{name}.png")
        assert page.messages == []
        assert [r for r in page.requests if not r.startswith(("data:", "blob:"))] == [page_file.absolute().as_uri()]

    chromium.browse(page_file.absolute().as_uri(), tmp_path / "profile", visit)


# ---------------------------------------------------------------- several sets, networks and protocols

CLASSES = ["crane", "a", "a > b", "crane", "b", "five", "six", "seven", "eight", "nine"]  # two cranes, as in ImageNet
OTHER = {"arch": "convnet3-in"}


def of_a_set(accuracy, random):
    """Results, measurements, curves of a set with two networks, two protocols and its random images."""
    results = (
        result("this", "stored", [accuracy, accuracy + 0.129]),
        result("this", "hard", [accuracy - 20, accuracy - 19]),
        result("this", "stored", [accuracy - 5, accuracy - 4], **OTHER),
        result("this", "stored", [accuracy + 5, accuracy + 6], protocol="rded"),
        result("random", "stored", [random, random + 1]),
        result("teacher", "hard", [90], protocol="-", seeds=(0,)),
    )
    found = [measured("accuracy", "top-1", 0.0).changed(values=r.values, mean=float(np.mean(r.values)), of=r.of,
                                                        labels=r.labels, arch=r.arch, protocol=r.protocol)
             for r in results if r.of != "teacher"]  # fmt: skip
    found += [measured("mine", "first", 7.0), measured("mine", "first", 3.0, of="random"),
              measured("mine", "first", 4.0, of="teacher", labels=None, protocol=None, seeds=(0,))]  # fmt: skip
    for more in ({}, OTHER):
        found += [
            measured("corruptions", "top-1", 10.0 * s + len(more), f"fog, severity {s}", **more) for s in (1, 3, 9)
        ]
        found += [measured("corruptions", "top-1", 66.0 + len(more), "clean", **more)]
        found += [measured("per-class", "accuracy", float(i + len(more)), f"c{i}", **more) for i in range(4)]
    found += [measured("per-class", "accuracy", 41.0, "a"), measured("per-class", "accuracy", 43.0, "a > b")]
    for i, name in enumerate(("b", "five", "six", "seven", "eight")):
        found.append(measured("per-class", "confusion", 10.0 + i, f"a > {name}"))
    found.append(measured("per-class", "confusion", 77.0, "a > b > five"))
    curves = tuple(
        StoredCurve(of="this", ipc=2, arch="convnet3", protocol=protocol, labels=labels, val=None, epochs=(1, 2),
                    losses=((2.0, loss),), accuracies=((10.0, 20.0),), best=(20.0,))
        for protocol, labels, loss in (("demo", "stored", 0.0), ("rded", "stored", 1.0), ("demo", "hard", 1.5))
    )  # fmt: skip
    return results, tuple(found), curves


@pytest.fixture(scope="module")
def shuffled_set(teacher, tmp_path_factory):
    """As `rded_set`, with 2 images of each class."""
    return distill(
        tmp_path_factory.mktemp("shuffled") / "set", data="digits", method="rded", ipc=2, protocol="rded",
        settings={"pool": 6, "factor": 2}, views=4, teacher=teacher, workers=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def several(random_set, shuffled_set, tmp_path_factory):
    """Three sets; the random images of "a" and "b" are the same, those of "c" have one value in common with them."""
    root, made = tmp_path_factory.mktemp("several"), []
    for name, source, accuracy, random in (
        ("a", random_set, 60.063, 50.0), ("b", random_set, 61.5, 50.0), ("c", shuffled_set, 62.5, 45.0),
    ):  # fmt: skip
        directory, work = Path(shutil.copytree(source.root, root / name)), root / f"{name}.work"
        results, found, curves = of_a_set(accuracy, random)
        manifest = read_manifest(directory)
        classes = tuple(ClassInfo(name=one, id=None) for one in CLASSES)
        write_manifest(directory, manifest.changed(classes=classes, results=results))
        (work / "measures").mkdir(parents=True)
        figures = []
        for of, colour in (("this", ord(name)), ("random", int(random))):
            file = f"measures/{of}.png"
            Image.fromarray(np.full((8, 16, 3), colour, np.uint8)).save(work / file)
            figures.append(StoredFigure(measure="leakage", name="nearest", caption="Pairs.", of=of, arch="convnet3",
                                        kind="png", file=file))  # fmt: skip
        if name == "b":  # fewer measures of the same random images
            found = tuple(m for m in found if m.of != "random" or m.measure == "accuracy")
        write_measurements(
            work, Measurements(content=manifest.content, measurements=found, figures=tuple(figures), curves=curves)
        )
        made.append(directory)
    return made


def texts(selector, scope="document"):
    return f"[...{scope}.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)"


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def rows_of(table):
    """Rows of a table as dictionaries by the text of the column's head."""
    return (
        f"(() => {{ const t = document.querySelector({json.dumps(table)}), heads = {texts('thead th', 't')};"
        "return [...t.querySelectorAll('tbody tr')].map((r) => Object.fromEntries("
        "[...r.children].map((c, i) => [heads[i], c.textContent]))) })()"
    )


async def choose(page, scope, value):
    await page.run(
        f"{{const s = {scope}.querySelector('select'); s.value = {json.dumps(value)};"
        "s.dispatchEvent(new Event('change'))}"
    )


async def drawn(page, chart):
    """Wait until a chart is drawn, which it is when it comes into view."""
    await page.until(f"({chart}.scrollIntoView({{ behavior: 'instant' }}), {chart}.dataset.drawn)")


async def check_tables(page):
    found = await page.run(rows_of("#measures table"))
    accuracy = [row for row in found if row["measure"] == "accuracy"]
    assert {(row["network"], row["protocol"], row["labels"]) for row in accuracy} == {
        ("convnet3", "demo", "stored"), ("convnet3", "demo", "hard"), ("convnet3-in", "demo", "stored"),
        ("convnet3", "rded", "stored"),
    }  # fmt: skip
    results = await page.run(rows_of("#results table"))
    for name in "abc":
        for row in accuracy:
            (same,) = [
                r
                for r in results
                if r["trained on"] == name and all(r[k] == row[k] for k in ("network", "protocol", "labels"))
            ]
            assert same["accuracy"] == row[name] != "–"
    # a baseline has one identity, and all of its values
    shared, own = "random images for a, b", "random images for c"
    (mine,) = [row for row in found if row["measure"] == "mine"]
    assert (mine[shared], mine[own], mine["teacher"]) == ("3.50 ± 0.71", "3.50 ± 0.71", "4.50 ± 0.71")
    assert sorted({row["trained on"] for row in results}) == ["a", "b", "c", shared, own, "teacher"]
    # sorting outlasts filtering
    await page.run(
        "[...document.querySelectorAll('#results th button')].find((b) => b.textContent === 'accuracy').click()"
    )
    fields = "[...document.querySelectorAll('#results label')]"
    for value in ("demo", "all"):
        await choose(page, f"{fields}.find((l) => l.textContent.startsWith('protocol'))", value)
        numbers = [float(row["accuracy"].split(" ")[0]) for row in await page.run(rows_of("#results table"))]
        assert numbers == sorted(numbers, reverse=True) and len(numbers) > 5
        assert await page.run("document.querySelector('#results [aria-sort=descending]').textContent") == "accuracy"


async def check_charts(page):
    for section in ("results", "measures", "curves", "figures"):
        for i in range(await page.run(f"document.querySelectorAll('#{section} .chart').length")):
            await drawn(page, f"document.querySelectorAll('#{section} .chart')[{i}]")
    assert await page.run("document.querySelectorAll('[data-drawn=failed]').length") == 0
    chart = "document.querySelector('[aria-label^=\"%s\"] svg')"
    # networks stand beside each other and are not added up
    dots = chart % "per-class: accuracy of per-class"
    labels = await page.run(f"[...{dots}.querySelectorAll('[aria-roledescription=point]')].map((p) => p.ariaLabel)")
    assert len(labels) == len(set(labels)) == 3 * (2 * 4 + 2)
    assert {"c, convnet3", "c, convnet3-in"} <= set(await page.run(texts(".role-legend-label text", dots)))
    axis = [text for text in await page.run(texts(".role-axis-label text", dots)) if text.isdigit()]
    assert max(map(int, axis)) <= 60
    # one heat map for each network, the same colours in all, readable numbers, the clean images
    heat, field = (
        chart % "corruptions",
        "[...document.querySelectorAll('#measures figure')].find((f) => f.querySelector('p'))",
    )
    options = await page.run(texts("option", field))
    assert options == [f"{name}, {arch}" for name in "abc" for arch in ("convnet3", "convnet3-in")]
    domains = []
    for option in options[:2]:
        await choose(page, field, option)
        await drawn(page, f"{field}.querySelector('.chart')")
        clean = "66.50" if option.endswith("convnet3") else "67.50"
        assert await page.run(f"{field}.querySelector('p').textContent") == f"clean: {clean} ± 0.71 %"
        cells = await page.run(
            f"[...{heat}.querySelectorAll('.mark-rect.role-mark path')].map((p) => p.getAttribute('fill'))"
        )
        inks = await page.run(
            f"[...{heat}.querySelectorAll('.mark-text.role-mark text')].map((p) => p.getAttribute('fill'))"
        )
        assert len(cells) == len(inks) == 3 and len(set(inks)) == 2
        for cell, ink in zip(cells, inks):
            cell = (
                "#" + "".join(f"{int(v):02x}" for v in re.findall(r"\d+", cell)[:3]) if cell.startswith("rgb") else cell
            )
            assert contrast(cell, {"#000": "#000000", "#fff": "#ffffff"}[ink]) >= 4.5
        domains.append(await page.run(texts(".role-legend-label text", heat)))
    assert domains[0] == domains[1]
    # curves: a line for each protocol and kind of labels, whole epochs, no logarithm of 0
    loss = chart % "loss"
    names = await page.run(texts(".role-legend-label text", loss))
    assert names == [f"{name}, {more}" for name in "abc" for more in ("demo", "demo, hard labels", "rded")]
    ticks = [text for text in await page.run(texts(".role-axis-label text", loss)) if text in ("1", "2") or "." in text]
    assert "1" in ticks and "1.5" not in ticks
    assert "NaN" not in await page.run(f"{loss}.outerHTML") and "Infinity" not in await page.run(f"{loss}.outerHTML")
    # no two series look alike
    for one in (loss, dots):
        style = "['stroke', 'fill', 'stroke-dasharray', 'd'].map((key) => p.getAttribute(key)).join()"
        looks = await page.run(f"[...{one}.querySelectorAll('.role-legend-symbol path')].map((p) => {style})")
        assert len(looks) == len(set(looks)) >= 6


async def check_figures(page):
    found = await page.run(texts("#figures h3"))
    assert sorted(found) == [f"leakage, nearest, convnet3: {of}" for of in (
        "a", "b", "c", "random images for a, b", "random images for c")]  # fmt: skip


async def check_classes(page):
    async def confusions(label):
        line = f"document.querySelectorAll('#images .class')[{label}]"
        await page.run(f"{line}.querySelector('button').click()")
        return await page.run(texts(".confusions p", line))

    assert (await page.run(texts("#images .class button")))[:4] == ["crane (0)", "a", "a > b", "crane (3)"]
    assert await confusions(1) == [
        "convnet3: accuracy 41.50 %; taken for eight (14.50 %), seven (13.50 %), six (12.50 %)."
    ]
    assert await confusions(2) == ["convnet3: accuracy 43.50 %; taken for five (77.50 %)."]
    assert await confusions(0) == ["Not measured: ddkit evaluate --measure per-class."]


PIXELS = """(async () => {
  const svg = document.querySelectorAll('#card .pair svg[aria-label^=pixels]')[%d].cloneNode(true);
  svg.querySelectorAll('.region').forEach((one) => one.remove());
  svg.setAttribute('width', %d); svg.setAttribute('height', %d);
  const picture = new Image();
  picture.src = 'data:image/svg+xml;base64,' + btoa(new XMLSerializer().serializeToString(svg));
  await picture.decode();
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = %d;
  const context = canvas.getContext('2d'); context.drawImage(picture, 0, 0);
  return [...context.getImageData(0, 0, %d, %d).data] })()"""


async def check_views(page, root):
    """The card of an image shows the pixels of its views, with the patches as they were permuted."""
    (one,), store = page_sets([read_manifest(root)]), load_set(read_manifest(root))
    rows, checked = np.concatenate([np.flatnonzero(store.labels == label)[:2] for label in range(10)]), 0
    await choose(page, "document.querySelector('#images .filters')", "c")
    for image in range(8):
        await page.run(f"document.querySelectorAll('#images img')[{image}].dispatchEvent(new MouseEvent('mouseenter'))")
        words = await page.run(texts("#card .quiet"))
        crops = "#card .view:first-child .pair > svg[aria-label^=crop] > .patch"
        assert await page.run(f"document.querySelectorAll('{crops}').length") == 4
        for view, shown_view in enumerate(one.images[image].views):
            assert "patches shuffled" in words[view]
            mixed, size = shown_view.mixed, one.view_size
            assert ("CutMix" in words[view]) == (mixed is not None)
            if mixed is not None:
                assert one.classes[mixed.c] in words[view] and ("not shown" in words[view]) == (mixed.image is None)
                if mixed.image is None:
                    continue
            found = np.array(await page.run(PIXELS % (view, size, size, size, size, size)), np.float64)
            wanted = apply(store.images, store.all_views, rows[[image]], np.array([view]), size)[0].numpy()
            gap = np.abs(found.reshape(size, size, 4)[:, :, :3].transpose(2, 0, 1) - wanted).mean()
            assert gap < 12, (image, view, gap)  # grey levels: a browser enlarges by repeating pixels
            checked += 1
    assert checked > 10


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")
def test_what_varies_is_told_apart(several, tmp_path):
    page_file = report(several, tmp_path / "page.html")

    async def visit(page):
        await check_tables(page)
        await check_charts(page)
        await check_figures(page)
        await check_classes(page)
        await check_views(page, several[2])
        assert page.messages == []

    chromium.browse(page_file.absolute().as_uri(), tmp_path / "profile", visit)


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed")
def test_no_two_of_many_sets_look_alike(several, tmp_path):
    text = render_page([several[0]])
    start = text.index('id="data">') + len('id="data">')
    end = text.index("</script>", start)
    (one,) = json.loads(text[start:end])
    many = [one | {"name": f"set {i}", "images": one["images"][:1]} for i in range(23)]
    (tmp_path / "page.html").write_text(text[:start] + json.dumps(many) + text[end:])

    async def visit(page):
        loss = "document.querySelector('#curves .chart')"
        await drawn(page, loss)
        style = "['stroke', 'stroke-dasharray'].map((key) => p.getAttribute(key)).join()"
        looks = await page.run(f"[...{loss}.querySelectorAll('.role-legend-symbol path')].map((p) => {style})")
        assert len(looks) == len(set(looks)) == 23 * 3

    chromium.browse((tmp_path / "page.html").as_uri(), tmp_path / "profile", visit)


def test_lines_are_readable_on_both_grounds():
    text = (Path(images.__file__).parent / "assets" / "charts.js").read_text()
    colours = re.findall(r'"(#[0-9a-f]{6})"', text[: text.index("DASHES")])
    assert len(colours) == 10
    for colour in colours:
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#12151c")) >= 3
