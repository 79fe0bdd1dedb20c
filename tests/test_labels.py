"""Labelling units: alone or in groups they write the same logits; another precision is recorded with its effect."""

import shutil

import numpy as np
import pytest
import torch

import ddkit
from ddkit.core.device import has_bfloat16
from ddkit.engine import Local
from ddkit.errors import OptionError
from ddkit.labelling.labels import LabelGroup, label_groups, label_jobs
from ddkit.pipeline.options import DistillOptions
from ddkit.pipeline.resolving import resolve
from ddkit.pipeline.units import encoding_units, run_units, synthesis_units

OPTIONS = {"data": "digits", "method": "random", "views": 2, "protocol": "demo", "workers": 1}


def test_a_group_writes_what_its_units_write_alone(teacher, tmp_path):
    run = resolve(tmp_path / "set", DistillOptions.of(OPTIONS | {"teacher": teacher, "ipc": 10}), Local())
    increment = next(run.increments())
    run_units(synthesis_units(run, increment), run.engine)
    run_units(encoding_units(run, increment), run.engine)
    jobs = label_jobs(run.labelling, increment.shards)
    assert len(jobs) == 4 and [len(group.jobs) for group in label_groups(jobs)] == [1] * 4
    for job in jobs:
        job.run()
    alone = [job.file.tensors() for job in jobs]
    for job in jobs:
        job.file.path.unlink()
    group = LabelGroup(jobs=tuple(jobs))
    group.run()
    assert group.views == 200
    for job, wanted in zip(jobs, alone):
        found = job.file.tensors()
        assert found.keys() == wanted.keys() == {"logits", "fidelity"}
        assert all(np.array_equal(found[name], wanted[name]) for name in found)


def test_precision_is_recorded_with_its_effect_or_refused(teacher, tmp_path):
    options = OPTIONS | {"teacher": teacher, "ipc": 2, "label_precision": "bfloat16", "device": "cpu"}
    if not has_bfloat16(torch.device("cpu")):
        with pytest.raises(OptionError, match="does not have it; give .*float32"):
            ddkit.distill(tmp_path / "set", **options)
        return
    made = ddkit.distill(tmp_path / "set", **options)
    effect = made.labels.precision_fidelity
    assert made.labels.precision == "bfloat16" and 0 < effect.kl_t1 < 0.1
    assert "**Precision** of the teacher: bfloat16" in (made.root / "README.md").read_text()
    shutil.rmtree(tmp_path / "set.work")
    grown = ddkit.distill(tmp_path / "set", data="digits", teacher=teacher, ipc=3, workers=1)
    assert grown.labels.precision == "bfloat16" and grown.shards[0] == made.shards[0]


def test_an_unknown_precision_is_refused():
    with pytest.raises(OptionError, match="float32"):
        ddkit.distill("nowhere", data="digits", label_precision="int8")
