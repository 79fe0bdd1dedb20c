"""Every example runs, from its own text, and is short."""

import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path


def test_plain_pytorch(random_set, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plain_pytorch.py", str(random_set.root), "1"])
    runpy.run_path(str(EXAMPLES / "plain_pytorch.py"), run_name="__main__")
    assert "epoch 1: loss" in capsys.readouterr().out and (tmp_path / "student.pt").is_file()
