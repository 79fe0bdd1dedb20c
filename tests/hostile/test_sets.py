"""No set that somebody made runs anything, crashes a reader, leads out of its folder, or trains a student."""

import shutil

import pytest

from hostile import codecs, sets

VERIFY, TRAIN = ["verify", "set"], ["train", "set", "--epochs", "1", "--out", "s.safetensors"]
HOLDS = 400_000_000  # bytes by which memory may grow in a refused case


@pytest.mark.parametrize("name", sets.CASES)
def test_a_hostile_set_is_refused(name, base, runner, outside):
    """`verify` and `train` end with the same refusal in one line, and touch nothing."""
    root = outside / "set"
    shutil.copytree(base, root)
    sets.CASES[name](root)
    before = runner.tree(outside)
    commands = [VERIFY] if name not in codecs.ONLY_A_STUDENT else []
    commands += [TRAIN] if name not in sets.HARMLESS_TO_A_STUDENT else []
    for told in runner.run(outside, *commands):
        assert told["code"] in (2, 3, 4), told
        assert told["err"].splitlines()[-1].startswith("error: ") and told["err"].count("error: ") == 1, told["err"]
        assert len(told["err"]) < 5000 and "defect" not in told["err"], told["err"]
        assert told["grown"] < HOLDS, f"memory grew by {told['grown'] / 1e6:.0f} MB"
    assert runner.tree(outside) == before


def test_the_base_is_right(base, runner, outside):
    """Else the cases above would be refused for nothing; and a key of a later ddkit is ignored."""
    shutil.copytree(base, outside / "set")
    sets.manifest(outside / "set", lambda data: data.update(later={"key": 1}))
    assert [told["code"] for told in runner.run(outside, VERIFY, TRAIN)] == [0, 0]


@pytest.mark.parametrize(
    "codec", ["int8", "topk:3", "lowrank:4", "lowrank:4:f16", "lowrank:5:i4+top2", "sampled:9", "teacher"]
)
def test_the_base_is_right_with_labels_of_every_codec(codec, base, runner, outside):
    shutil.copytree(base, outside / "set")
    codecs.with_codec(outside / "set", codec)
    commands = [VERIFY] if codec == "sampled:9" else [VERIFY, TRAIN]  # which is for temperature 1, not the protocol's
    assert all(told["code"] == 0 for told in runner.run(outside, *commands))
