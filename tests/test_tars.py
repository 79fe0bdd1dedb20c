"""A shard's archive is what our writer makes of its members, byte for byte."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.errors import IntegrityError
from ddkit.format.row_records import images_layout_problem, parse_rows
from ddkit.format.tars import data_offsets, headers, layout_problem, tar_bytes

SIZES = st.lists(st.integers(1, 1500), min_size=1, max_size=9)


def written(names, sizes, seed=0):
    """The archive as Python's tarfile writes it, settings as `shards.write_shard`."""
    buffer, rng = io.BytesIO(), np.random.default_rng(seed)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, size in zip(names, sizes):
            info = tarfile.TarInfo(name)
            info.size, info.mode = size, 0o644
            tar.addfile(info, io.BytesIO(rng.bytes(size)))
    return buffer.getvalue()


@given(SIZES)
def test_the_layout_is_that_of_the_standard_library(sizes):
    names = [f"{i:08d}.views.safetensors" for i in range(len(sizes))]
    data, array = written(names, sizes), np.array(sizes, np.int64)
    assert len(data) == tar_bytes(array) and layout_problem(data, names, array) is None
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [info.offset_data for info in tar] == data_offsets(array).tolist()


@given(SIZES, st.data())
def test_whatever_is_changed_outside_of_the_members_is_seen(sizes, data):
    names, array = [f"{i:08d}.png" for i in range(len(sizes))], np.array(sizes, np.int64)
    whole = bytearray(written(names, sizes))
    inside = np.zeros(len(whole), bool)
    for at, size in zip(data_offsets(array).tolist(), sizes):
        inside[at : at + size] = True
    at = data.draw(st.sampled_from(np.flatnonzero(~inside).tolist()))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    assert layout_problem(bytes(whole), names, array)


@pytest.mark.parametrize("change", [lambda d: d[:-512], lambda d: d + bytes(10240), lambda d: d[512:] + d[:512]])
def test_another_length_or_order_is_seen(change):
    names, sizes = ["00000000.cls", "00000000.png"], np.array([1, 700])
    assert layout_problem(change(written(names, sizes.tolist())), names, sizes)


def test_a_header_of_the_largest_member():
    made = headers(["x.png"], np.array([8**11 - 1]))
    info = tarfile.TarInfo("x.png")
    info.size, info.mode = 8**11 - 1, 0o644
    assert made.tobytes() == info.tobuf(tarfile.USTAR_FORMAT)


def test_sizes_whose_sum_overflows_are_refused():
    """1,845 sizes of 16 digits add up to a little over 2^64, which an archive of 2 MB would seem to have."""
    sizes = [9_999_999_999_999_488] * 1844 + [6744073709708800]
    line = "{:08d}\t0\t1\t{}\t" + "0" * 64 + "\t1\t1\t" + "0" * 64 + "\n"
    with pytest.raises(IntegrityError, match="line 1 "):
        parse_rows("".join(line.format(i, size) for i, size in enumerate(sizes)).encode(), "x.rows")
    most = parse_rows("".join(line.format(i, 10**11 - 1) for i in range(1845)).encode(), "x.rows")
    assert "bytes instead of" in images_layout_problem(bytes(2_048_000), most, "png")
