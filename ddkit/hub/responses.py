"""What a server may answer before the client believes it: each response is looked at as it comes in.

The client takes a file's name in its cache from a header, waits as long as a server asks it to, and reads as much as is
sent. Here names have no folders in them, nobody waits for hours, and a body ends where it was said to end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

LONGEST_PAUSE_S = 300.0  # of a Retry-After
LARGEST_ANSWER = 64 * 2**20  # bytes of an answer that is no file
LONGEST_ANSWER_S = 300.0  # seconds until such an answer is whole
MOST_PAGES = 200  # of one listing: the Hub itself takes 100,000 files, a thousand a page
MOST_STALLS = 3  # of one file with less than PROGRESS between them: the client alone would wait for minutes
PROGRESS = 1_000_000  # bytes
COMMIT = re.compile(r"[0-9a-f]{7,64}")
_ETAG = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,199}")


class InvalidResponse(RuntimeError):
    """An answer that no Hub gives; nothing of it is used."""


@dataclass
class CallState:
    """One call of ours, its repetitions included. most: bytes that its file may have, None where that is not known;
    declared: sizes that the server told, by path; pages: of its listing; stalls: how often a body stopped."""

    most: int | None = None
    declared: dict[str, int] = field(default_factory=dict)
    pages: int = 0
    stalls: int = 0


_CALL: ContextVar[CallState | None] = ContextVar("ddkit_hub_call", default=None)


@contextmanager
def in_call(state: CallState) -> Iterator[None]:
    """What the client asks for in this block belongs to one call of ours, and to what was seen of it before."""
    token = _CALL.set(state)
    try:
        yield
    finally:
        _CALL.reset(token)


def check_response(response: Any) -> None:
    """A hook of the HTTP client: raises InvalidResponse for headers that nobody should act on, and bounds the body."""
    headers, call = response.headers, _CALL.get() or CallState()
    for name in ("ETag", "X-Linked-ETag"):
        value = headers.get(name)
        if value is not None and not _ETAG.fullmatch(value.removeprefix("W/").strip('"')):
            raise InvalidResponse(f"{name} {value[:60]!r} is no name of a file")
    commit = headers.get("X-Repo-Commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        raise InvalidResponse(f"X-Repo-Commit {commit[:60]!r} is no commit")
    if (asked := _asked_pause(headers)) > LONGEST_PAUSE_S:
        raise InvalidResponse(f"it asks to wait {asked:.0f} s")
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise InvalidResponse(f"it is encoded as {headers['Content-Encoding'][:40]!r}, which was not asked for")
    path = response.request.url.path
    if "/tree/" in path:
        call.pages += 1
        if call.pages > MOST_PAGES:
            raise InvalidResponse(f"its list of files has more than {MOST_PAGES} pages")
    is_file = "/resolve/" in path or bool(call.declared)  # large ones come from another address than was asked first
    size = _number(headers.get("X-Linked-Size") or headers.get("Content-Length"))
    if response.request.method == "HEAD":
        if is_file and size is not None and 200 <= response.status_code < 400:
            call.declared[path] = size
            if call.most is not None and size > call.most:
                raise InvalidResponse(f"the file has {size} bytes, at most {call.most} are due")
        return
    if is_file and response.status_code in (200, 206):
        bounds = [bound for bound in (call.most, call.declared.get(path)) if bound is not None]
        most, seconds = (min(bounds) if bounds else None), None
    else:
        most, seconds = LARGEST_ANSWER, LONGEST_ANSWER_S
    response.stream = _bounded(response.stream, most, seconds, call)


def _asked_pause(headers: Any) -> float:
    """Seconds that a server asks to wait, by either kind of header; 0 where it asks for none."""
    asked = [_number(headers.get("Retry-After")) or 0]
    asked += [int(found) for found in re.findall(r"\bt=(\d{1,15})", headers.get("ratelimit", ""))]
    return float(max(asked))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text) else None


def _bounded(stream: Any, most: int | None, seconds: float | None, call: CallState) -> Any:
    """A response's body that ends in InvalidResponse where it is longer than `most` bytes, takes longer than `seconds`, or
    stops again and again."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            began, seen = time.monotonic(), 0
            chunks = iter(stream)
            while True:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    return
                except httpx2.TimeoutException as error:
                    call.stalls += 1
                    if call.stalls < MOST_STALLS:
                        raise
                    raise InvalidResponse("it stops in the middle of a file, and does not go on") from error
                seen += len(chunk)
                if seen > PROGRESS:
                    call.stalls = 0
                if most is not None and seen > most:
                    raise InvalidResponse(f"it sends more than the {most} bytes that are due")
                if seconds is not None and time.monotonic() - began > seconds:
                    raise InvalidResponse(f"it is not whole after {seconds:.0f} s")
                yield chunk

        def close(self) -> None:
            stream.close()

        @property
        def elapsed(self) -> Any:
            return stream.elapsed

    return Bounded()
