"""The zoo: sets in the layouts of published ones are imported, labelled and measured; what is missing is named."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from ddkit.errors import OptionError
from ddkit.sources.exporting import export

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture
def zoo():
    return importlib.import_module("zoo")


def test_sets_in_every_layout_are_measured_and_a_missing_one_is_named(zoo, random_set, teacher, tmp_path, capsys):
    entries = []
    for layout in ("folder", "parquet", "shards"):
        export(
            str(random_set.root),
            tmp_path / layout,
            as_=layout,
            folder_names="names" if layout == "folder" else "numbers",
        )
        entries.append((layout, tmp_path / layout))
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "folder")
    entries += [("zip", tmp_path / "packed.zip"), ("gone", tmp_path / "nothing")]
    alike = 'method = "somebodys"\ndataset = "digits"\n'
    text = "".join(f'[[set]]\nname = "{name}"\nwhere = "{where}"\n{alike}\n' for name, where in entries)
    (tmp_path / "zoo.toml").write_text(text)
    args = ["--zoo", str(tmp_path / "zoo.toml"), "--teacher", teacher, "--val", "digits", "--protocol", "demo"]
    args += ["--epochs", "1", "--runs", "1", "--work", str(tmp_path / "work")]
    assert zoo.main(args) == 1
    assert "gone: left out" in capsys.readouterr().err
    table = json.loads((tmp_path / "work" / "zoo.json").read_text())
    assert set(table) == {"folder", "parquet", "shards", "zip"}
    means = {name: [r["mean"] for r in row["results"] if r["of"] == "this"] for name, row in table.items()}
    assert len(means["folder"]) == 2
    before = (tmp_path / "work" / "zoo.json").read_bytes()
    assert zoo.main([*args, "--only", "folder"]) == 0 and (tmp_path / "work" / "zoo.json").read_bytes() == before


def test_the_list_and_wrong_input(zoo, tmp_path, capsys):
    assert zoo.main(["--list"]) == 0 and "caj/CUDD" in capsys.readouterr().err
    with pytest.raises(OptionError, match="--teacher|teacher T"):
        zoo.main([])
    (tmp_path / "zoo.toml").write_text('[[set]]\nname = "a"\nplace = "b"\n')
    with pytest.raises(OptionError, match="place"):
        zoo.main(["--zoo", str(tmp_path / "zoo.toml"), "--list"])
