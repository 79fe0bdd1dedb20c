"""Files: whole or not there, sealed, read within limits, followed nowhere."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.files import (
    atomic_file,
    host,
    is_abandoned,
    is_temporary,
    read_limited,
    read_sealed,
    refuse_links,
    write_bytes,
    write_sealed,
)
from ddkit.errors import IntegrityError


@given(st.binary(max_size=300), st.text("abc123", min_size=1, max_size=8), st.data())
def test_a_sealed_file_gives_back_what_was_written_or_nothing(tmp_path_factory, payload, key, data):
    path = tmp_path_factory.mktemp("sealed") / "x"
    write_sealed(path, payload, key)
    assert read_sealed(path, key) == payload == read_sealed(path, None)
    assert read_sealed(path, key + "x") is None and read_sealed(path) is None
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    assert read_sealed(path, key) is None
    path.write_bytes(raw[:at])
    assert read_sealed(path, key) is None


def test_a_sealed_file_is_not_read_through_a_link(tmp_path):
    write_sealed(tmp_path / "a", b"x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_sealed(tmp_path / "b") is None and read_sealed(tmp_path / "none") is None


def test_temporary_files_carry_host_and_process(tmp_path):
    with atomic_file(tmp_path / "x.tar") as temporary:
        assert temporary.name == f".x.tar.{host()}.{os.getpid()}.tmp" and is_temporary(temporary)
        assert not is_abandoned(temporary)
        temporary.write_bytes(b"1")
    gone = subprocess.run([sys.executable, "-S", "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    process = gone.stdout.strip()
    assert is_abandoned(tmp_path / f".x.tar.{host()}.{process}.tmp")
    for name in (f".x.tar.elsewhere.{process}.tmp", f".x.{process}.tmp", "x.tmp", f".x.tar.{host()}.{'9' * 30}0.tmpx"):
        assert not is_abandoned(tmp_path / name), name
    before = tmp_path / f".x.tar.{host().rpartition('-')[0]}-00000000.{process}.tmp"  # of before a restart
    before.touch()
    assert not is_abandoned(before)
    os.utime(before, (0, 0))
    assert is_abandoned(before)


def test_machines_whose_names_begin_alike_have_different_names(monkeypatch):
    names = set()
    for worker in range(3):
        monkeypatch.setattr("platform.node", lambda worker=worker: f"{'train-imagenet1k-' * 4}worker.{worker}")
        names.add(host())
    assert len(names) == 3 and all(len(name) <= 40 and "." not in name for name in names)


def test_the_longest_name_can_be_written(tmp_path):
    write_bytes(tmp_path / ("n" * 255), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_limits(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_limited(tmp_path / "x", 5) == b"12345" and read_limited(tmp_path / "x", 4) is None
    os.truncate(tmp_path / "x", 10**12)
    assert read_limited(tmp_path / "x", 10**6) is None


def test_links_are_refused_where_they_are_looked_for(tmp_path):
    (tmp_path / "set" / "data" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "mine").symlink_to("/etc")
    refuse_links(tmp_path / "set", ["data", "none"])
    (tmp_path / "set" / "data" / "deep" / "x").symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match=r"a link \(data/deep/x -> /etc/passwd\)"):
        refuse_links(tmp_path / "set", ["data"])
    with pytest.raises(IntegrityError, match="mine"):
        refuse_links(tmp_path / "set", ["mine"])
