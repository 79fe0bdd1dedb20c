"""Relabelling by the same teacher takes the stored logits: the same bytes as labelling again, without the teacher."""

import ddkit
from ddkit.labelling import labels
from ddkit.pipeline import relabel


def test_taken_labels_give_the_bytes_of_computed_ones(random_set, teacher, tmp_path, monkeypatch):
    computed = ddkit.distill(
        tmp_path / "computed", data="digits", method="random", ipc=2, protocol="demo", views=3, teacher=teacher,
        codec="topk:3", workers=1,
    )  # fmt: skip

    def never(*args):
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(labels.LabelJob, "_logits", never)
    taken = relabel(random_set.root, tmp_path / "taken", teacher=teacher, codec="topk:3", views=3, workers=1)
    assert [shard.sha256 for shard in taken.shards] == [shard.sha256 for shard in computed.shards]
    assert ddkit.verify(taken.root) == [] and 0 < taken.labels.fidelity.kl_t20 < 1


def test_other_views_seeds_or_codecs_are_labelled_again(random_set, teacher, tmp_path, monkeypatch):
    ran = []
    run = labels.LabelJob._logits
    monkeypatch.setattr(labels.LabelJob, "_logits", lambda *args: ran.append(1) or run(*args))
    for i, options in enumerate(({"views": 5}, {"seed": 9}, {"protocol": "common", "views": 2})):
        relabel(random_set.root, tmp_path / str(i), teacher=teacher, workers=1, **options)
        assert len(ran) == i + 1
    coarse = relabel(random_set.root, tmp_path / "int8", teacher=teacher, codec="int8", workers=1)
    assert len(ran) == 3
    relabel(coarse.root, tmp_path / "again", teacher=teacher, codec="fp16", workers=1)
    assert len(ran) == 4
