"""Where units run: their order, their errors and their working directory, in this process and in workers."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.engine import run


@pytest.mark.parametrize("workers", [1, 2])
def test_relative_paths_are_the_callers_even_after_a_chdir(tmp_path, monkeypatch, workers):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for file in ("a", "b", "c"):
            Path(file).write_text(name)
        found = dict(run(Path.read_text, [Path("a"), Path("b"), Path("c")], workers=workers))
        assert found == {Path("a"): name, Path("b"): name, Path("c"): name}


@pytest.mark.parametrize("workers", [1, 2])
@settings(max_examples=10, deadline=None)
@given(needs=st.lists(st.sets(st.integers(0, 5)), min_size=2, max_size=6))
def test_no_unit_starts_before_what_it_needs(workers, needs):
    # a unit may need earlier ones; what is not in the list was done by an earlier run
    units = [SimpleNamespace(id=str(k), needs={str(n) for n in each if n < k}) for k, each in enumerate(needs)]
    done: list[str] = []
    for unit, result in run(vars, units[::-1], workers=workers, needs=lambda unit: unit.needs | {"earlier"}):
        assert result == vars(unit) and unit.needs <= set(done)
        done.append(unit.id)
    assert sorted(done) == [unit.id for unit in units]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_unit_is_the_callers_and_the_next_call_works(tmp_path, workers):
    with pytest.raises(FileNotFoundError):
        list(run(Path.read_text, [tmp_path / "a", tmp_path / "b"], workers=workers))
    (tmp_path / "a").write_text("x")
    assert list(run(Path.read_text, [tmp_path / "a"] * 2, workers=workers)) == [(tmp_path / "a", "x")] * 2


def test_workers_that_keep_memory_are_not_taken_for_leaking():
    found = dict(run(os.getenv, ["LOKY_MAX_MEMORY_LEAK_SIZE", "PATH"], workers=2))
    assert float(found["LOKY_MAX_MEMORY_LEAK_SIZE"]) >= 1e12 and found["PATH"] == os.environ["PATH"]
