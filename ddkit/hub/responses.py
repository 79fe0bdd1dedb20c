"""Validation of the Hub's responses, as they arrive.

The client takes the file names in its cache from a header, pauses for as long as the server asks, and reads the whole
body. Here file names must not contain folders, pauses are limited, and a body must not exceed its announced size.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

LONGEST_PAUSE_S = 300.0  # largest Retry-After to accept
LARGEST_ANSWER = 64 * 2**20  # bytes of a response that is not a file
LONGEST_ANSWER_S = 300.0  # seconds until such a response is complete
MOST_PAGES = 200  # pages of one listing: the Hub allows 100,000 files, 1,000 per page
MOST_STALLS = 3  # stalls of one download with less than PROGRESS in between; the client alone waits for minutes
PROGRESS = 1_000_000  # bytes
COMMIT = re.compile(r"[0-9a-f]{7,64}")
_ETAG = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,199}")


class InvalidResponse(RuntimeError):
    """A response that a correct server does not send; it is discarded."""


@dataclass
class CallState:
    """What is known of one call, including its retries.

    Attributes:
        most: Largest size of the file, in bytes; None if unknown.
        declared: Sizes that the server announced, by path.
        pages: Number of pages of the listing so far.
        stalls: How often a body stopped arriving.
    """

    most: int | None = None
    declared: dict[str, int] = field(default_factory=dict)
    pages: int = 0
    stalls: int = 0


_CALL: ContextVar[CallState | None] = ContextVar("ddkit_hub_call", default=None)


@contextmanager
def in_call(state: CallState) -> Iterator[None]:
    """Attribute the client's requests in the block to one call.

    Args:
        state: State of the call, shared by its retries.
    """
    token = _CALL.set(state)
    try:
        yield
    finally:
        _CALL.reset(token)


def check_response(response: Any) -> None:
    """Validate the headers of a response and limit its body; an event hook of the HTTP client.

    Args:
        response: The httpx response; its stream is replaced.

    Raises:
        InvalidResponse: A header is invalid, or the announced size or pause exceeds a limit.
    """
    headers, call = response.headers, _CALL.get() or CallState()
    for name in ("ETag", "X-Linked-ETag"):
        value = headers.get(name)
        if value is not None and not _ETAG.fullmatch(value.removeprefix("W/").strip('"')):
            raise InvalidResponse(f"{name} {value[:60]!r} is not a file name")
    commit = headers.get("X-Repo-Commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        raise InvalidResponse(f"X-Repo-Commit {commit[:60]!r} is not a commit")
    if (asked := _asked_pause(headers)) > LONGEST_PAUSE_S:
        raise InvalidResponse(f"it asks to wait {asked:.0f} s")
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise InvalidResponse(f"it is encoded as {headers['Content-Encoding'][:40]!r}, which was not requested")
    path = response.request.url.path
    if "/tree/" in path:
        call.pages += 1
        if call.pages > MOST_PAGES:
            raise InvalidResponse(f"its list of files has more than {MOST_PAGES} pages")
    is_file = "/resolve/" in path or bool(call.declared)  # large files are redirected to another URL
    size = _number(headers.get("X-Linked-Size") or headers.get("Content-Length"))
    if response.request.method == "HEAD":
        if is_file and size is not None and 200 <= response.status_code < 400:
            call.declared[path] = size
            if call.most is not None and size > call.most:
                raise InvalidResponse(f"the file has {size} bytes, at most {call.most} are expected")
        return
    if is_file and response.status_code in (200, 206):
        bounds = [bound for bound in (call.most, call.declared.get(path)) if bound is not None]
        most, seconds = (min(bounds) if bounds else None), None
    else:
        most, seconds = LARGEST_ANSWER, LONGEST_ANSWER_S
    response.stream = _bounded(response.stream, most, seconds, call)


def _asked_pause(headers: Any) -> float:
    """Seconds that the server asks to wait (Retry-After, ratelimit); 0 without such a header."""
    asked = [_number(headers.get("Retry-After")) or 0]
    asked += [int(found) for found in re.findall(r"\bt=(\d{1,15})", headers.get("ratelimit", ""))]
    return float(max(asked))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text) else None


def _bounded(stream: Any, most: int | None, seconds: float | None, call: CallState) -> Any:
    """Wrap a body: InvalidResponse if it exceeds `most` bytes or `seconds`, or stalls repeatedly."""
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
                    raise InvalidResponse("it stops in the middle of a file and does not continue") from error
                seen += len(chunk)
                if seen > PROGRESS:
                    call.stalls = 0
                if most is not None and seen > most:
                    raise InvalidResponse(f"it sends more than the {most} bytes expected")
                if seconds is not None and time.monotonic() - began > seconds:
                    raise InvalidResponse(f"it is not complete after {seconds:.0f} s")
                yield chunk

        def close(self) -> None:
            stream.close()

        @property
        def elapsed(self) -> Any:
            return stream.elapsed

    return Bounded()
