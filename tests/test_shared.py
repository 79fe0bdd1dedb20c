"""The unit that makes shared labels: fitted on the first increment alone, the same for any number of workers."""

import shutil

import numpy as np
import pytest

import ddkit
from ddkit.core.files import file_sha256
from ddkit.errors import IntegrityError
from ddkit.format.codecs.lowrank import LowRank
from ddkit.labelling import shared

OPTIONS = {"data": "digits", "method": "random", "views": 3, "protocol": "demo", "codec": "lowrank:4+top1"}


@pytest.fixture(scope="module")
def grown_at_once(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "set"
    return ddkit.distill(out, **OPTIONS, teacher=teacher, prefixes=(2, 3), ipc=3, workers=1)


def test_workers_and_growing_do_not_change_a_byte(grown_at_once, teacher, tmp_path):
    first = ddkit.distill(tmp_path / "set", **OPTIONS, teacher=teacher, ipc=2, workers=2)
    fitted = first.labels.file
    assert fitted == grown_at_once.labels.file
    grown = ddkit.distill(tmp_path / "set", ipc=3, workers=2)
    assert grown.labels.file == fitted and grown.content == grown_at_once.content


def test_growing_without_the_work_directory_keeps_the_file(grown_at_once, teacher, tmp_path):
    ddkit.distill(tmp_path / "set", **OPTIONS, teacher=teacher, ipc=2, workers=1)
    shutil.rmtree(tmp_path / "set.work")
    again = ddkit.distill(tmp_path / "set", data="digits", teacher=teacher, ipc=3, workers=1)
    assert again.content == grown_at_once.content


def test_a_lost_file_is_made_again_from_the_units(grown_at_once, teacher, tmp_path):
    made = ddkit.distill(tmp_path / "set", **OPTIONS, teacher=teacher, ipc=2, workers=1)
    path = tmp_path / "set" / "labels.safetensors"
    path.unlink()
    again = ddkit.distill(tmp_path / "set", workers=1)
    assert again.content == made.content and file_sha256(path) == made.labels.file.sha256


def test_a_lost_file_whose_bytes_cannot_be_made_again_is_reported(teacher, tmp_path, monkeypatch):
    made = ddkit.distill(tmp_path / "set", **OPTIONS, teacher=teacher, ipc=2, workers=1)
    path = tmp_path / "set" / "labels.safetensors"
    whole = path.read_bytes()
    path.unlink()
    fit = LowRank.fit

    def on_another_machine(self, logits, known=None):
        found = fit(self, logits, known)
        return found | {"basis": -found["basis"]}

    with monkeypatch.context() as patch:
        patch.setattr(LowRank, "fit", on_another_machine)
        with pytest.raises(IntegrityError, match=r"labels\.safetensors is missing .* fetch the set again"):
            ddkit.distill(tmp_path / "set", workers=1)
    shutil.rmtree(tmp_path / "set.work")
    with pytest.raises(IntegrityError, match=r"labels\.safetensors is missing .* fetch the set again"):
        ddkit.distill(tmp_path / "set", data="digits", teacher=teacher, workers=1)
    path.write_bytes(whole)
    assert ddkit.distill(tmp_path / "set", data="digits", teacher=teacher, workers=1).content == made.content


def test_a_basis_is_fitted_on_every_nth_view_of_a_large_increment(teacher, tmp_path, monkeypatch):
    seen, fit = [], LowRank.fit
    monkeypatch.setattr(
        LowRank, "fit", lambda self, logits, known=None: fit(self, seen.append(logits) or logits, known)
    )
    for number, most in enumerate((10**6, 130 * 10)):  # of 40 images, 5 views and 10 classes
        monkeypatch.setattr(shared, "FITTED_VALUES", most)
        options = OPTIONS | {"views": 5, "teacher": teacher, "ipc": 4}
        ddkit.distill(tmp_path / str(number), **options, workers=1)
    whole, some = seen
    assert whole.shape == (200, 10) and some.dtype == np.float32 and (some == whole[::2]).all()
