"""The manifest: what its dataclasses accept is what a `ddkit.json` may say."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.serialization import Mismatch
from ddkit.format.manifest_file import manifest_of

REQUIRED = [
    *("name", "created_by", "install", "repo", "license", "classes", "ipc", "image", "image_tars", "views", "labels"),
    *("normalisation", "eval", "method", "recipe", "seed", "fingerprint", "prefixes", "shard_rows", "recommended"),
    *(
        "real_pixels",
        "log",
        "cost",
        "devices",
        "source",
        "teachers",
        "shards",
        "relabelled_from",
        "subset_of",
        "results",
    ),
    *("classes.0.name", "classes.0.id", "image.mode", "image.size", "source.holdout", "source.id", "views.count"),
    *("labels.codec", "shards.0.sha256", "teachers.0.hash", "recipe.config"),
]


def table(manifest, path):
    """(the table that holds the last key of a dotted path, that key) in a copy of the manifest's JSON."""
    data = copy.deepcopy(manifest.to_json())
    *above, last = path.split(".")
    place = data
    for key in above:
        place = place[int(key) if key.isdigit() else key]
    return data, place, last


def test_json_and_back(rded_set):
    assert manifest_of(rded_set.to_json()) == rded_set


@pytest.mark.parametrize("path", REQUIRED)
def test_a_required_key_is_missed_by_name(rded_set, path):
    data, place, last = table(rded_set, path)
    del place[last]
    with pytest.raises(Mismatch, match=rf"\b{last} (is|are) missing"):
        manifest_of(data)


@given(st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), st.integers() | st.text(max_size=5), max_size=4))
def test_keys_of_a_newer_version_are_kept(rded_set, later):
    for path in ("name", "image.size", "shards.0.sha256", "teachers.0.hash"):
        data, place, _ = table(rded_set, path)
        place.update(later)
        assert manifest_of(data).to_json() == manifest_of(data | {}).to_json()
        _, kept, _ = table(manifest_of(data), path)
        assert {key: kept[key] for key in later} == later


def test_what_cannot_agree_is_named(rded_set):
    for path, value, words in (
        ("ipc", 2, "do not increase up to its ipc 2"),
        ("image_tars", not rded_set.image_tars, "image_tars is"),
        ("shard_rows", 7, "shard_rows is 7"),
        ("real_pixels", "some", "real_pixels is 'some'"),
    ):
        data, place, last = table(rded_set, path)
        place[last] = value
        with pytest.raises(Mismatch, match=words):
            manifest_of(data)
