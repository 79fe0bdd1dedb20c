"""The Hub client, retries with back-off, and errors as one-line messages.

The client itself retries some requests, but never commits, creation or tags. It also manages tokens (`hf auth login`,
HF_TOKEN); none is handled here.
"""

from __future__ import annotations

import errno
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ddkit.core.console import note
from ddkit.core.faults import reach
from ddkit.core.files import FULL
from ddkit.core.worker_state import STATE
from ddkit.errors import DiskError, HubAccess, HubError, HubFile, HubNone, OptionError
from ddkit.hub.responses import LONGEST_PAUSE_S, CallState, InvalidResponse, check_response, in_call

Result = TypeVar("Result")

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds before each retry of a transient error
TIMEOUT_S = 120.0  # seconds without a byte: a commit may take a minute, and the client sets no limit itself
_CLIENT_ERRORS = (
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RecursionError,
)  # raised by the client for malformed responses
LOCAL = (*FULL, errno.EACCES, errno.EROFS, errno.EPERM)
_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}


class StaleParent(Exception):
    """Another commit came first, or the response to ours was lost: list the repository before retrying."""


def url(repo: str, kind: str = "dataset") -> str:
    """Return the URL of a repository.

    Args:
        repo: Id of the repository.
        kind: `dataset` or `model`.
    """
    return f"{_host()}/{'' if kind == 'model' else f'{kind}s/'}{repo}"


def api() -> Any:
    """Return the client, which is configured once per process."""
    return STATE.keep("hub client", "", _new_client)


def _new_client() -> Any:
    import httpx2
    from huggingface_hub import HfApi, constants, set_client_factory
    from huggingface_hub.utils import _http as http  # its default client has hooks (offline mode, debug log)
    from huggingface_hub.utils import disable_progress_bars, logging

    def client() -> httpx2.Client:
        ours = http.default_client_factory()
        ours.timeout = httpx2.Timeout(TIMEOUT_S, connect=20.0)
        ours.headers["Accept-Encoding"] = "identity"  # so that a body has its announced length
        ours.event_hooks = {**ours.event_hooks, "response": [*ours.event_hooks["response"], check_response]}
        return ours

    set_client_factory(client)
    disable_progress_bars()
    if not constants.HF_DEBUG:
        logging.set_verbosity_error()  # `with_retries` reports failures itself
    return HfApi(library_name="ddkit")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that `error` came from, or None if there was no response."""
    for e in _causes(error):
        status = getattr(getattr(e, "response", None), "status_code", None)
        if status is None and type(e) is ConnectionError:  # hf_xet states it in the message only
            match = re.search(r"\((\d{3}) ", str(e))
            status = int(match[1]) if match else None
        if status is not None:
            found: int | None = status
            return found
    return None


def _wrong_bytes(error: BaseException) -> bool:
    """Whether a large file arrived damaged."""
    return status_of(error) in (400, 422) and any("uploading" in str(e) for e in _causes(error))


def _client_retried(error: BaseException) -> bool:
    """Whether the client or hf_xet has already retried: no connection, or no token for Xet."""
    import httpx2

    return any(isinstance(e, httpx2.ConnectError) or type(e) is ConnectionError for e in _causes(error))


def is_transient(error: BaseException) -> bool:
    """Return whether the call that raised `error` may succeed if it is repeated."""
    import httpx2

    chain = list(_causes(error))
    status = status_of(error)
    if status is not None and not any(isinstance(e, InvalidResponse) for e in chain):
        return status in _TRANSIENT or _wrong_bytes(error)
    if any(type(e).__name__ == "OfflineModeIsEnabled" or isinstance(e, InvalidResponse) for e in chain):
        return False
    if any(isinstance(e, httpx2.UnsupportedProtocol) for e in chain):
        return False
    return any(isinstance(e, httpx2.TransportError | ConnectionError | TimeoutError) for e in chain)


def _pause(error: BaseException, planned_s: float) -> float:
    """Seconds to wait before the next try: the planned pause, or the longer one that the Hub asks for."""
    for e in _causes(error):
        asked = str(getattr(getattr(e, "response", None), "headers", {}).get("Retry-After", ""))
        if asked.isdigit() and planned_s > 0:
            return min(max(float(asked), planned_s), LONGEST_PAUSE_S)
    return planned_s


def with_retries(
    what: str,
    repo: str,
    call: Callable[[], Result],
    kind: str = "dataset",
    *,
    repeated: bool = False,
    most: int | None = None,
) -> Result:
    """Call a function, and retry it with back-off after transient errors.

    Args:
        what: What the call does, for messages.
        repo: Id of the repository, for messages.
        call: The function.
        kind: `dataset` or `model`.
        repeated: Whether the client itself retries without a connection; the call is then not retried for that reason.
        most: Largest size of the file that is fetched, in bytes; None if unknown.

    Raises:
        HubAccess, HubFile, HubError, DiskError: The call failed; the message is one line.
        OptionError: `repo` is not a valid id.
        StaleParent: As raised by `call`.
    """
    import httpx2
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, XetDownloadError

    # raised by the client for failed requests; RuntimeError by uploads, ValueError by batches
    answers = (
        OSError,
        RuntimeError,
        ValueError,
        httpx2.HTTPError,
        EntryNotFoundError,
        XetDownloadError,
        *_CLIENT_ERRORS,
    )
    handled = sys.exception()  # the exception that the caller is handling, which did not cause errors here
    seen = CallState(most)
    for tries, planned_s in enumerate((*PAUSES_S, None), start=1):
        try:
            reach("request")
            with in_call(seen):
                answer = call()
            reach("answer")
            return answer
        except StaleParent:
            raise
        except HFValidationError as error:
            raise OptionError(f"{repo!r} is not a valid repository id ({error_text(error)}); write ORG/NAME") from error
        except answers as error:
            for link in _causes(error):
                if handled is not None and link.__context__ is handled:
                    link.__context__ = None
            if planned_s is None or not is_transient(error) or (tries > (not repeated) and _client_retried(error)):
                raise _error_for(error, what, repo, tries, kind) from error
            pause_s = _pause(error, planned_s)
            note(f"{what}: {error_text(error)}; trying again in {pause_s:.0f} s")
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def pause() -> None:
    """Wait for the first back-off interval before repeating a request."""
    time.sleep(PAUSES_S[0])


def error_text(error: BaseException) -> str:
    """Return one line with the Hub's message in `error`, without request ids and URLs."""
    status = status_of(error)
    said = next((m for e in _causes(error) if (m := getattr(e, "server_message", None))), None)
    innermost = list(_causes(error))[-1]
    text = " ".join(str(said or (innermost if status is None else error)).split())
    text = re.sub(r"\(Request ID:[^)]*\)|https?://\S+|Encountered error for file with OID \w+:", "", text)
    text = " ".join(text.replace("`", "").split()).strip(" .:")
    return f"the Hub answered {status}" + (f" ({text[:200]})" if said else "") if status else text[:200] or "no answer"


def _error_for(error: Exception, what: str, repo: str, tries: int, kind: str) -> Exception:
    """Return the exception with a one-line message for a call that failed for good."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalTokenNotFoundError,
        RevisionNotFoundError,
    )

    status, said = status_of(error), error_text(error)
    tried = "1 attempt" if tries == 1 else f"{tries} attempts"
    chain = list(_causes(error))
    if known := _local_error(chain, what, status):
        return known
    if any(isinstance(e, LocalTokenNotFoundError) for e in chain):
        return _token_error(repo, kind, said)
    if any(type(e).__name__ == "OfflineModeIsEnabled" for e in chain):
        return HubError(f"{what}: offline (HF_HUB_OFFLINE is set) and not in the cache; go online once, or unset it")
    if any(isinstance(e, GatedRepoError) for e in chain):
        return HubAccess(
            f"{repo} is gated; ask for access at {url(repo, kind)}, log in here (`hf auth login`), and run this again"
        )
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        return HubNone(f"{repo} has no such revision ({what}); `hf repos tag list {repo} --type {kind}` shows tags")
    if any(isinstance(e, EntryNotFoundError) for e in chain) and status == 404:
        return HubFile(f"{repo} holds no such file ({what})")
    if re.search(r"quota|storage|payment", said, re.IGNORECASE) and status in (None, 400, 402, 403, 413, 422, 507):
        return HubError(f"{what}: no room on the Hub for {repo} ({said}); free space or buy more, then run it again")
    if status == 401:
        return _token_error(repo, kind, said)
    if status == 403:
        return HubAccess(
            f"{what}: this token may not do that in {repo} ({said}); use a token with write access of an account that "
            "may write there (`hf auth login`), or another ORG/NAME"
        )
    if status == 404:
        return HubNone(
            f"no {kind} {repo} on the Hub, or a private one that this token may not see; check the name or log in "
            "(`hf auth login`)"
        )
    if _wrong_bytes(error):
        return HubError(f"{what}: it did not arrive complete ({said}, {tried}); run the same command again")
    if status in (400, 413) or isinstance(error, ValueError):
        step = "shorten README.md, which has the names of the classes," if status == 413 else "fix that"
        return HubAccess(f"{what}: the Hub rejects it ({said}); {step} and run the same command again")
    if status is None:
        return HubError(f"{what}: {_host()} cannot be reached ({said}, {tried}); run the same command again later")
    return HubError(f"{what}: {said}, {tried}; nothing is lost, run the same command again later")


def _local_error(chain: Sequence[BaseException], what: str, status: int | None) -> Exception | None:
    """The exception for errors other than the Hub's own: an invalid response, a full disk."""
    for e in chain:
        if isinstance(e, InvalidResponse):
            return HubError(
                f"{what}: {_host()} sent an invalid response: {e}; report it to its owner, or try again later"
            )
        if isinstance(e, OSError) and status is None and e.errno in LOCAL:
            place = e.filename or "the client's cache ($HF_HOME)"
            step = "make room" if e.errno in FULL else "make it writable"
            return DiskError(f"{what}: cannot write {place} ({e.strerror}); {step} and run the same command again")
    if isinstance(chain[-1], _CLIENT_ERRORS):
        kind, text = type(chain[-1]).__name__, str(chain[-1])[:100]
        return HubError(f"{what}: the response of {_host()} cannot be read ({kind}: {text}); try again later")
    return None


def _token_error(repo: str, kind: str, said: str) -> HubAccess:
    from huggingface_hub import get_token

    if get_token() is None:
        return HubAccess(f"{repo}: the Hub needs a token; run `hf auth login` or set HF_TOKEN, then run it again")
    return HubAccess(
        f"{repo}: the Hub refuses your token ({said}): wrong, expired or revoked; `hf auth login` with a new one"
    )


def _host() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
