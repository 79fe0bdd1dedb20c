"""What is not the Hub's doing is not said to be: a full disk, an answer that is none."""

import errno

import pytest

from ddkit.errors import DiskError, HubError
from ddkit.hub.responses import InvalidResponse
from ddkit.hub.retries import with_retries


def failing(error, times=None):
    calls = []

    def call():
        calls.append(1)
        if times is None or len(calls) <= times:
            raise error
        return "done"

    return call, calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_is_a_disk(hub, number):
    call, calls = failing(OSError(number, "no", "/some/file"))
    with pytest.raises(DiskError, match="cannot write /some/file.*(make room|make it writable)"):
        with_retries("fetching x", "lab/x", call)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [KeyError("sha"), TypeError("no"), AttributeError("x"), IndexError("1")])
def test_an_answer_that_cannot_be_read(hub, error):
    call, calls = failing(error)
    with pytest.raises(HubError, match="cannot be read"):
        with_retries("reading x", "lab/x", call)
    assert len(calls) == 1


def test_an_odd_answer_is_not_asked_for_again(hub):
    call, calls = failing(InvalidResponse("it asks to wait 1000000000 s"))
    with pytest.raises(HubError, match="asks to wait 1000000000 s"):
        with_retries("reading x", "lab/x", call)
    assert len(calls) == 1


def test_what_passes_is_tried_again(hub):
    call, calls = failing(ConnectionResetError("reset"), times=2)
    assert with_retries("reading x", "lab/x", call, repeated=True) == "done" and len(calls) == 3
