"""A unit's file is what was written under its key, or it is none."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.files import write_sealed
from ddkit.engine.units import UnitFile, UnitStore
from ddkit.errors import IntegrityError


@given(st.integers(0, 2**31), st.data())
def test_a_damaged_unit_is_not_done(tmp_path_factory, seed, data):
    work = tmp_path_factory.mktemp("work")
    unit = UnitStore(str(work)).unit("recover-1-0", "key")
    assert not unit.is_good()
    rng = np.random.default_rng(seed)
    tensors = {"a": rng.random((3, 4), np.float32), "b": rng.integers(0, 9, 5)[::2]}
    unit.write(tensors, {"seconds": 1.5})
    found, told = unit.read()
    assert told == {"seconds": 1.5} and all((found[name] == tensors[name]).all() for name in tensors)
    assert unit.is_good() and not UnitFile(unit.path, "other").is_good() and UnitFile(unit.path, None).is_good()
    raw = bytearray(unit.path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1
    unit.path.write_bytes(raw)
    assert not unit.is_good()
    with pytest.raises(IntegrityError, match=r"recover-1-0.unit is damaged"):
        unit.read()


def test_a_unit_of_one_value(tmp_path):
    unit = UnitStore(str(tmp_path)).unit("pack-1-0", "key")
    assert unit.path == tmp_path / "units" / "pack-1-0.unit"
    assert unit.read_json() is None
    unit.write_json({"entry": [1]})
    assert unit.read_json() == {"entry": [1]} and UnitFile(unit.path, "x").read_json() is None


@pytest.mark.parametrize("metadata", [{}, {"ddkit": "[]"}, {"ddkit": "x"}, {"ddkit": "[" * 100_000}])
def test_a_sealed_file_that_holds_no_unit_is_refused(tmp_path, metadata):
    """Somebody else's OUT.work can have true checksums over anything."""
    header = json.dumps(
        {"__metadata__": metadata, "a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
    ).encode()
    for payload in (len(header).to_bytes(8, "little") + header + b"\0\0", b"", b"no safetensors"):
        write_sealed(tmp_path / "x.unit", payload, "key")
        unit = UnitFile(tmp_path / "x.unit", "key")
        for read in (unit.read, unit.metadata):
            with pytest.raises(IntegrityError):
                read()
        assert unit.read_json() is None
