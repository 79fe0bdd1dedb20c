"""The card's table of measures: one row for what was measured alike, a column for every condition that differs."""

from ddkit.format.measurements import Measurement
from ddkit.publishing.summaries import summary_table


def measured(mean, **changes):
    plain = {
        "measure": "accuracy", "metric": "top-1", "title": "top-1 accuracy", "unit": "%", "better": "higher",
        "of": "this", "ipc": 3, "arch": "convnet3", "protocol": "own", "labels": "stored", "val": "x:test",
        "seeds": (0, 1), "values": ((mean, mean),), "mean": mean, "std": 0.0, "command": "c", "hardware": "h",
    }  # fmt: skip
    return Measurement(**plain | changes)


TEACHER = {"of": "teacher", "protocol": None, "labels": "hard", "seeds": (0,), "values": ((90.0,),)}


def test_rows_that_differ_say_in_what():
    rows = [
        measured(50), measured(40, labels="hard"), measured(45, of="random"), measured(90, **TEACHER),
        measured(60, protocol="common"), measured(47, of="random", protocol="common"),
        measured(70, labels="online"), measured(1, condition="fog"),
    ]  # fmt: skip
    table = summary_table(rows)
    assert table.conditions == ("protocol", "labels")
    assert [(row.conditions, row.cells) for row in table.rows] == [
        (("own", "stored"), ("50.00 ± 0.00", "40.00 ± 0.00", "45.00 ± 0.00", "90.00")),
        (("common", "stored"), ("60.00 ± 0.00", "–", "47.00 ± 0.00", "90.00")),
        (("own", "online"), ("70.00 ± 0.00", "40.00 ± 0.00", "45.00 ± 0.00", "90.00")),
    ]


def test_other_students_are_not_set_beside():
    table = summary_table([measured(50), measured(60, seeds=(7,), values=((60.0,),)), measured(45, of="random")])
    assert table.conditions == ("students",)
    assert [(row.conditions, row.cells[2]) for row in table.rows] == [(("2",), "45.00 ± 0.00"), (("1",), "–")]


def test_a_set_without_differences_has_no_column_for_them():
    table = summary_table([measured(50), measured(7, metric="size", arch=None, protocol=None, labels=None, seeds=())])
    assert table.conditions == () and [row.arch for row in table.rows] == ["convnet3", ""]
    assert summary_table([]).rows == ()
