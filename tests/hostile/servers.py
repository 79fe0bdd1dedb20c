"""A Hub that answers as no Hub should. The repository's name says how: `evil/MODE`."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"
MODES: dict[str, Callable[[Any], None]] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mode = ""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        found = re.search(r"/evil/([\w-]+)", self.path)
        self.mode = found[1] if found else ""
        try:
            MODES.get(self.mode, nothing)(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def answer(self, body: bytes = b"", status: int = 200, length: int | None = None, **headers: str) -> None:
        """An answer; length: what is declared instead of the body's own."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def is_info(self) -> bool:
        return self.path.startswith("/api/datasets/") and "/tree/" not in self.path

    @property
    def is_file(self) -> bool:
        return "/resolve/" in self.path

    def info(self, **fields: Any) -> None:
        """What a repository is said to be."""
        said = {"id": f"evil/{self.mode}", "sha": SHA, "private": False, "siblings": [{"rfilename": "ddkit.json"}],
                "tags": [], "cardData": {}}  # fmt: skip
        self.answer(json.dumps(said | fields).encode(), Content_Type="application/json")

    def file(self, body: bytes = b"{}", **options: Any) -> None:
        self.answer(body, **{"X_Repo_Commit": SHA, "ETag": '"abcdef"'} | options)


def nothing(h: Handler) -> None:
    h.answer(b'{"error": "not here"}', 404)


def mode(name: str) -> Callable[[Callable[[Handler], None]], None]:
    def keep(function: Callable[[Handler], None]) -> None:
        MODES[name] = function

    return keep


def of_file(name: str, reply: Callable[[Handler], None]) -> None:
    """A mode whose repository is right and whose files are not."""
    MODES[name] = lambda h: reply(h) if h.is_file else h.info()


def of_info(name: str, reply: Callable[[Handler], None]) -> None:
    MODES[name] = lambda h: reply(h) if h.is_info else h.file()


def endless(h: Handler) -> None:
    h.send_response(200)
    h.send_header("X-Repo-Commit", SHA)
    h.send_header("ETag", '"abcdef"')
    h.send_header("Transfer-Encoding", "chunked")
    h.end_headers()
    while h.command != "HEAD":
        h.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def bomb(h: Handler) -> None:
    body = gzip.compress(bytes(200_000_000), 1)
    h.file(b"" if h.command == "HEAD" else body, length=None if h.command != "HEAD" else 100, Content_Encoding="gzip")


of_file("etag-outside", lambda h: h.file(ETag='"../../../../precious/evil"'))
of_file("etag-absolute", lambda h: h.file(ETag='"/tmp/ddkit-hostile-evil"'))
of_file("etag-linked", lambda h: h.file(X_Linked_ETag='"../../evil"'))
of_file("etag-dots", lambda h: h.file(ETag='".."'))
of_file("commit-outside", lambda h: h.file(X_Repo_Commit="../../../../precious"))
of_file("without-commit", lambda h: h.answer(b"{}", ETag='"a"'))
of_file("without-etag", lambda h: h.answer(b"{}", X_Repo_Commit=SHA))
of_file("four-gigabytes", lambda h: h.file(length=4 * 2**30) if h.command == "HEAD" else endless(h))
of_file("gzip-bomb", bomb)
of_file("endless", endless)
of_file("shorter-than-said", lambda h: h.file(b"{}", length=500))
of_file("html", lambda h: h.file(b"<html>log in</html>"))
of_file("array", lambda h: h.file(b"[1, 2, 3]"))
of_file("deep", lambda h: h.file(b"[" * 200_000))
of_file("empty", lambda h: h.file(b""))
of_file("waits-for-years", lambda h: h.answer(b"{}", 429, Retry_After="1000000000"))
of_file("waits-by-rate", lambda h: h.answer(b"{}", 429, ratelimit='"api";r=0;t=99999999'))
of_file("redirects-for-ever", lambda h: h.answer(b"", 302, Location=h.path))
of_file("redirects-to-a-file", lambda h: h.answer(b"", 302, Location="file:///etc/passwd"))
of_file("errors", lambda h: h.answer(b"oh no " * 1000, 500))
of_file("teapot", lambda h: h.answer(b"{}", 418))
of_file("disk-of-others", lambda h: h.answer(b'{"error": "quota"}', 507))


@mode("drops")
def _drops(h: Handler) -> None:
    h.close_connection = True
    h.connection.close()


# what `--data evil/MODE` asks first
of_info("info-array", lambda h: h.answer(b"[]"))
of_info("info-html", lambda h: h.answer(b"<html>"))
of_info("info-without-sha", lambda h: h.answer(b'{"id": "x"}'))
of_info("info-sha-outside", lambda h: h.info(sha="../../../precious"))
of_info("info-sha-number", lambda h: h.info(sha=7))
of_info("info-siblings-odd", lambda h: h.info(siblings=[{"name": 3}]))
of_info("info-deep", lambda h: h.answer(b'{"id":' + b"[" * 200_000))
of_info("info-endless", endless)
of_info("info-waits", lambda h: h.answer(b"{}", 503, Retry_After="1000000000"))


def pages(h: Handler) -> None:
    """A list of files without an end."""
    if h.is_info:
        h.info()
    elif "/tree/" in h.path:
        number = int(re.search(r"cursor=(\d+)|$", h.path)[1] or 0)  # type: ignore[index]
        entry = {"type": "file", "oid": "a" * 40, "size": 3, "path": f"f{number}.txt"}
        host, port = h.server.server_address[:2]
        link = f'<http://{host}:{port}/api/datasets/evil/pages/tree/{SHA}?cursor={number + 1}>; rel="next"'
        h.answer(json.dumps([entry]).encode(), Link=link)
    else:
        h.file()


MODES["pages"] = pages


class Server:
    """The server on 127.0.0.1, in a thread."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
