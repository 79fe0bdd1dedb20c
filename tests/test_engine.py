"""Where units run: their order, their errors and their working directory, in this process and in workers."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.engine import run


@dataclass(frozen=True)
class Reading:
    """Reads a file."""

    path: Path
    needs: frozenset[str] = frozenset()

    @property
    def id(self):
        return str(self.path)

    def run(self):
        return self.path.read_text()


@dataclass(frozen=True)
class Asking:
    """Reads a variable of the environment."""

    id: str
    needs: frozenset[str] = frozenset()

    def run(self):
        return os.getenv(self.id)


@dataclass(frozen=True)
class Telling:
    """Returns what it was made of."""

    id: str
    needs: frozenset[str]

    def run(self):
        return vars(self)


@pytest.mark.parametrize("workers", [1, 2])
def test_relative_paths_are_the_callers_even_after_a_chdir(tmp_path, monkeypatch, workers):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for file in ("a", "b", "c"):
            Path(file).write_text(name)
        found = dict(run([Reading(Path("a")), Reading(Path("b")), Reading(Path("c"))], workers=workers))
        assert found == {Reading(Path("a")): name, Reading(Path("b")): name, Reading(Path("c")): name}


@pytest.mark.parametrize("workers", [1, 2])
@settings(max_examples=10, deadline=None)
@given(needs=st.lists(st.sets(st.integers(0, 5)), min_size=2, max_size=6))
def test_no_unit_starts_before_what_it_needs(workers, needs):
    # a unit may need earlier ones; what is not in the list was done by an earlier run
    units = [Telling(str(k), frozenset(str(n) for n in each if n < k) | {"earlier"}) for k, each in enumerate(needs)]
    done: list[str] = []
    for unit, result in run(units[::-1], workers=workers):
        assert result == vars(unit) and unit.needs - {"earlier"} <= set(done)
        done.append(unit.id)
    assert sorted(done) == [unit.id for unit in units]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_unit_is_the_callers_and_the_next_call_works(tmp_path, workers):
    with pytest.raises(FileNotFoundError):
        list(run([Reading(tmp_path / "a"), Reading(tmp_path / "b")], workers=workers))
    (tmp_path / "a").write_text("x")
    unit = Reading(tmp_path / "a")
    assert list(run([unit] * 2, workers=workers)) == [(unit, "x")] * 2


def test_workers_that_keep_memory_are_not_taken_for_leaking():
    units = [Asking("LOKY_MAX_MEMORY_LEAK_SIZE"), Asking("PATH")]
    found = {unit.id: value for unit, value in run(units, workers=2)}
    assert float(found["LOKY_MAX_MEMORY_LEAK_SIZE"]) >= 1e12 and found["PATH"] == os.environ["PATH"]
