"""The page: one file that requests nothing, hostile names stay text, and a browser shows and works it."""

import json
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
from ddkit.pipeline.distilling import distill
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
            assert shown_view.top[0].c == int(logits.argmax())
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
