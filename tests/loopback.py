"""A Hugging Face Hub in memory on 127.0.0.1, for the real huggingface_hub and datasets clients, with faults on demand.

Set HF_ENDPOINT to `Hub.url` before either is imported. Datasets, models, Spaces; LFS and Xet uploads; plain downloads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import socket
import struct
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

MAX_BATCH = 256  # files in a preupload or LFS batch request
LFS_ABOVE = 10_000_000  # bytes
LFS_SUFFIXES = {".tar", ".png", ".jpg", ".safetensors", ".parquet", ".npy", ".npz", ".zip", ".gz", ".bin"}
Entry = dict[str, Any]  # a file as listings show it: oid (git's sha1), size, lfs with its sha256; and its etag


class User(NamedTuple):
    """Who a token stands for; `quota_bytes` bounds the LFS bytes of a namespace."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"
    quota_bytes: float | None = None


USERS = {"write-token": User("ann", ("lab",)), "read-token": User("ann", ("lab",), "read"), "other-token": User("bob")}


@dataclass
class Fault:
    """After `after` requests matching `on` ("METHOD /path?query"), the next `times` are hit."""

    kind: str  # of INJECTED, or reset stall lost-response stale-parent truncated
    on: str = ""
    after: int = 0
    times: int = 1
    seen: int = 0

    def hits(self, request: str) -> bool:
        matches = re.search(self.on, request) is not None
        self.seen += matches
        return matches and self.after < self.seen <= self.after + self.times


INJECTED = {str(status): (status, "injected error") for status in (429, 500, 502, 503, 504)} | {
    "wrong-hash": (400, "BadDigest: the sha256 of the body is not the one announced."),
    "expired-token": (401, 'User Access Token "test" is expired'),
}
STEPS = [  # of a push and a pull: requests, the faults that make sense there, upload modes
    (r"^HEAD .*/resolve/", "429 500 503 reset stall expired-token", "lfs xet"),
    (r"^GET .*/resolve/", "429 500 503 reset stall truncated", "lfs xet"),
    (r"^GET /api/\w+/[^/]+/[^/?]+(/revision/[^/?]+)?(\?|$)", "429 502 503 reset expired-token", "lfs xet"),
    (r"^GET .*/tree/", "429 503 504 reset stall", "lfs xet"),
    (r"^POST /api/repos/create", "429 500 reset expired-token lost-response", "lfs xet"),
    (r"^PUT .*/settings$", "429 503 reset lost-response", "lfs xet"),
    (r"^POST .*/preupload/", "429 503 reset stall expired-token", "lfs xet"),
    (r"^POST .*/objects/batch", "429 503 reset expired-token", "lfs"),
    (r"^PUT /storage/", "500 503 reset stall wrong-hash lost-response", "lfs"),
    (r"^POST .*/objects/verify", "429 503 reset", "lfs"),
    (r"^GET .*/xet-write-token/", "503 reset expired-token", "xet"),
    (r"^POST .*/commit/", "429 500 503 reset stall stale-parent lost-response expired-token", "lfs xet"),
    (r"^POST .*/tag/", "429 503 reset lost-response", "lfs xet"),
]


def schedule(seed: int, xet: bool) -> list[Fault]:
    """1 to 6 faults over the steps of a push and a pull, each hitting one or two requests; at most one ends it."""
    rng = random.Random(seed)
    steps = rng.choices([step for step in STEPS if ("xet" if xet else "lfs") in step[2]], k=rng.randint(1, 6))
    faults = [
        Fault(rng.choice(kinds.split()), on, rng.choice((0, 0, 1)), rng.choice((1, 1, 2))) for on, kinds, _ in steps
    ]
    for n, fault in enumerate(fault for fault in faults if fault.kind in ("expired-token", "wrong-hash")):
        fault.kind, fault.times = fault.kind if n == 0 else "503", 1
    return faults


class Reply(Exception):
    """An answer, with bytes or a JSON value; raised if it is a refusal."""

    def __init__(self, status: int, body: Any = b"", **headers: str) -> None:
        super().__init__(status, body)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def refusal(status: int, message: str, code: str = "", **headers: str) -> Reply:
    """`code` is the X-Error-Code by which the client picks its exception."""
    return Reply(status, {"error": message}, X_Error_Message=message, X_Error_Code=code, **headers)


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub keeps a file in LFS or Xet: by suffix, by size, or for not being text, as git sees it."""
    return PurePosixPath(path).suffix in LFS_SUFFIXES or size > LFS_ABOVE or b"\0" in sample


def regular(data: bytes) -> Entry:
    return {"type": "file", "oid": git_sha1(data), "size": len(data), "etag": git_sha1(data)}


def lfs(sha256: str, size: int) -> Entry:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    details = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}
    return {"type": "file", "oid": git_sha1(pointer), "size": size, "etag": sha256, "lfs": details}


def listing(tree: dict[str, Entry], folder: str = "", recursive: bool = True) -> list[Entry]:
    """Files and folders in a folder, by path."""
    folders = {str(parent) for path in tree for parent in PurePosixPath(path).parents[:-1]}
    entries = tree | {name: {"type": "directory", "oid": git_sha1(name.encode()), "size": 0} for name in folders}
    inside = [path for path in sorted(entries) if not folder or path.startswith(folder + "/")]
    return [{**entries[path], "path": path} for path in inside if recursive or "/" not in path[len(folder) + 1 :]]


class Commit(NamedTuple):
    oid: str
    parent: str | None
    title: str
    author: str
    date: str
    tree: dict[str, Entry]


@dataclass
class Repo:
    """A repository: its history, and the bytes of every file it was ever given."""

    kind: str  # "dataset", "model" or "space"
    id: str
    private: bool = False
    gated: bool | str = False
    granted: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)  # as get_discussions shows them
    history: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # by etag
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)  # of multipart uploads, by sha256

    def __post_init__(self) -> None:
        self.namespace = self.id.split("/")[0]
        self.gated = "auto" if self.gated is True else self.gated
        self.commit("main", "initial commit", {".gitattributes": self.store("", b"*.tar filter=lfs\n")})

    def at(self, revision: str) -> Commit:
        """The commit named by a branch, tag, pull request or oid."""
        pulls = {f"refs/pr/{num}": pull["head"] for num, pull in self.pulls.items()}
        oid = {**self.tags, **self.branches, **pulls}.get(revision, revision)
        if oid not in self.history:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[oid]

    def head(self, revision: str = "main") -> str:
        return self.at(revision).oid

    def files(self, revision: str = "main") -> dict[str, Entry]:
        return dict(self.at(revision).tree)

    def read(self, path: str, revision: str = "main") -> bytes:
        return self.objects[self.at(revision).tree[path]["etag"]]

    def commits(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        log = [self.at(revision)]
        while log[-1].parent:
            log.append(self.history[log[-1].parent])
        return log

    def store(self, path: str, data: bytes) -> Entry:
        large = is_lfs(path, data[:512], len(data))
        entry = lfs(hashlib.sha256(data).hexdigest(), len(data)) if large else regular(data)
        self.objects[entry["etag"]] = data
        return entry

    def commit(self, ref: str, title: str, changes: dict[str, Entry | None], author: str = "hub") -> str:
        """Advance a branch or pull request to the oid returned; None deletes. The first commit makes main."""
        if self.history and ref not in self.branches and not ref.startswith("refs/pr/"):
            raise refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        parent, n = self.at(ref) if self.history else None, len(self.history)
        merged = {**(parent.tree if parent else {}), **changes}
        tree = {path: file for path, file in sorted(merged.items()) if file}
        oid, date = git_sha1(f"{self.id} {n} {title} {tree}".encode()), f"2026-01-01T{n // 60:02}:{n % 60:02}:00.000Z"
        self.history[oid] = Commit(oid, parent and parent.oid, title, author, date, tree)
        if ref.startswith("refs/pr/"):
            self.pulls[int(ref.removeprefix("refs/pr/"))]["head"] = oid
        else:
            self.branches[ref] = oid
        return oid

    def propose(self, title: str, author: str, base: str, status: str) -> int:
        """Open a pull request; its number."""
        num = len(self.pulls) + 1
        pull = {"num": num, "title": title, "status": status, "base": base, "head": base, "isPullRequest": True}
        pull |= {"author": {"name": author}, "repo": {"name": self.id, "type": self.kind}, "events": []}
        changes = {"base": "refs/heads/main"}
        self.pulls[num] = pull | {"createdAt": self.at(base).date, "changes": changes, "filesWithConflicts": []}
        return num

    def merge(self, num: int, author: str) -> None:
        pull = self.pulls[num]
        base, theirs = self.files(pull["base"]), self.files(pull["head"])
        changes = {path: theirs.get(path) for path in {*base, *theirs} if base.get(path) != theirs.get(path)}
        pull["changes"]["mergeCommitId"] = self.commit("main", f"{pull['title']} (#{num})", changes, author)
        pull["status"] = "merged"


def shard_index(shard: bytes) -> dict[str, tuple[str, int]]:
    """A Xet shard's files, sha256 -> (Xet hash, bytes), from records of 48 B: file, segments, checks, sha256."""

    def hexadecimal(at: int) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", shard, at))

    files, at = {}, 48
    while (xet_hash := hexadecimal(at)) != "f" * 64:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        size = sum(struct.unpack_from("<I", shard, at + 48 * i + 36)[0] for i in range(1, segments + 1))
        at += 48 * (1 + segments * (1 + (flags >> 31)))
        if flags >> 30 & 1:
            files[hexadecimal(at)] = (xet_hash, size)
            at += 48
    return files


def read_cas(cas: Path, wanted: set[str]) -> dict[str, bytes]:
    """sha256 -> bytes of the wanted files that hf-xet's store holds, read back by hf-xet and checked."""
    import hf_xet  # late: it reads its environment when imported

    store, index = cas / "xet" / "xorbs", {}
    for shard in store.glob("shards/*.mdb"):
        index |= shard_index(shard.read_bytes())
    if not wanted & index.keys():
        return {}
    with tempfile.TemporaryDirectory() as folder:  # a copy of the database: the client may have locked the original
        view = Path(folder, "xet", "xorbs")
        view.mkdir(parents=True)
        for name in ("xorbs", "shards"):
            (view / name).symlink_to(store / name)
        (view / "global_dedup_lookup.redb").write_bytes((store / "global_dedup_lookup.redb").read_bytes())
        group = hf_xet.XetSession().new_download_stream_group(endpoint=f"local://{folder}")
        infos = {sha256: hf_xet.XetFileInfo(*index[sha256]) for sha256 in wanted & index.keys()}
        data = {sha256: b"".join(group.download_stream(info)) for sha256, info in infos.items()}
    return {sha256: content for sha256, content in data.items() if hashlib.sha256(content).hexdigest() == sha256}


class Hub:
    """The server, and what tests see of it. Settings may be changed at any time; `reset` restores them."""

    def __init__(self) -> None:
        self.lock, self.halted = threading.RLock(), threading.Event()
        self.folder, self.resets = tempfile.TemporaryDirectory(prefix="loopback-"), 0
        self.server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.reset()

    def start(self) -> None:
        threading.Thread(target=self.server.serve_forever, name="loopback", daemon=True).start()

    def stop(self) -> None:
        self.halted.set()
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

    def reset(self) -> None:
        """As new, but for the port."""
        with self.lock:
            self.users: dict[str, User] = dict(USERS)  # by token
            self.repos: dict[tuple[str, str], Repo] = {}  # by kind and id
            self.faults: list[Fault] = []
            self.watch: Callable[[Hub], None] | None = None  # called after every request, under the lock
            self.violations: list[str] = []  # what `watch` raised, and errors of the server itself
            self.yaml_errors: list[str] = []  # of validate-yaml
            self.largest_card = 1_000_000  # bytes; a guess: the Hub refuses 50,000 class names (datasets, issue 7392)
            self.multipart_above = 50_000_000  # bytes; a part is as large
            self.page_size, self.stall_s, self.retry_after_s = 1000, 1.0, 0
            self.resets += 1
            self.cas = Path(self.folder.name, str(self.resets))  # new: a client may still have the last one open
            self.forget_traffic()

    def forget_traffic(self) -> None:
        self.requests: list[str] = []
        self.received_bytes = 0  # by PUT of LFS objects

    def add_repo(self, kind: str, id: str, files: dict[str, bytes] | None = None, **access: bool | str) -> Repo:
        """`access`: private (bool), gated (bool, "auto" or "manual")."""
        repo = self.repos[kind, id] = Repo(kind, id, **access)
        if files:
            repo.commit("main", "add files", {path: repo.store(path, data) for path, data in files.items()})
        return repo

    def flip_bit(self, kind: str, id: str, path: str, offset: int) -> None:
        """Damage the stored bytes of a file on main; its hashes go on saying what they were."""
        repo = self.repos[kind, id]
        data = bytearray(repo.read(path))
        data[offset] ^= 1
        repo.objects[repo.files()[path]["etag"]] = bytes(data)

    def look(self) -> None:
        try:
            if self.watch is not None:
                self.watch(self)
        except Exception as error:
            self.violations.append(f"{self.requests[-1]}: {error!r}")


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away."""


class Handler(BaseHTTPRequestHandler):
    """One connection. The endpoints of a repository are the methods named <method>_<endpoint>."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def respond(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.query = dict(parse_qsl(urlsplit(self.path).query))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with self.hub.lock:
            self.user = self.hub.users.get(token, User(""))
            self.hub.requests.append(line := f"{self.command} {self.path}")
            self.hub.received_bytes += len(self.body) if line.startswith("PUT /storage/") else 0
            fault = next((fault.kind for fault in self.hub.faults if fault.hits(line)), "")
            reply = self.answer(fault)
            self.hub.look()
        if fault == "stall":
            self.hub.halted.wait(self.hub.stall_s)
        if fault in ("reset", "stall", "lost-response"):
            self.abort()
        else:
            self.send(reply, cut=fault == "truncated" and self.command == "GET")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond  # noqa: N815

    def send(self, reply: Reply, cut: bool) -> None:
        """Half of the body only if `cut`."""
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if cut else reply.body)
        self.close_connection |= cut

    def abort(self) -> None:
        """Close with RST instead of FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def answer(self, fault: str) -> Reply:
        """What the request, or the fault due for it, leads to."""
        try:
            if fault in INJECTED:
                return refusal(*INJECTED[fault], Retry_After=str(self.hub.retry_after_s) if fault == "429" else "")
            value = b"" if fault in ("reset", "stall") else self.route(overtaken=fault == "stale-parent")
            return value if isinstance(value, Reply) else Reply(200, value)
        except Reply as reply:
            return reply
        except Exception:
            self.hub.violations.append(traceback.format_exc())
            return refusal(500, "error in the loopback Hub")

    def route(self, overtaken: bool) -> Any:
        path = [unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        match path if path[0] in ("api", "datasets", "spaces", "storage") else ["models", *path]:
            case ["api", "whoami-v2"]:
                return self.whoami()
            case ["api", "validate-yaml"]:
                if len(self.body) > self.hub.largest_card:
                    raise refusal(413, "Payload Too Large")
                errors = [{"message": message} for message in self.hub.yaml_errors]
                warnings = (
                    [] if self.json["content"].startswith("---") else [{"message": "empty or missing yaml metadata"}]
                )
                return Reply(400 if errors else 200, {"errors": errors, "warnings": warnings})
            case ["api", "repos", ("create" | "delete") as verb]:
                return getattr(self, verb)(**self.json)
            case ["api", kinds, namespace, name, *rest]:
                repo = self.visible(kinds[:-1], f"{namespace}/{name}")
                endpoint, *arguments = rest or ["revision"]
                self.check_access(repo, endpoint, *arguments)
                if overtaken:
                    entry = repo.store("", repo.read(".gitattributes", arguments[0]) + b"# by another\n")
                    repo.commit(arguments[0], "by another", {".gitattributes": entry}, "another")
                handler = getattr(self, f"{self.command}_{endpoint}".lower().replace("-", "_"), None)
                if handler is not None:
                    return handler(repo, *arguments)
            case ["storage", kind, namespace, name, sha256]:  # a signed address: no token
                return self.transfer(self.hub.repos[kind, f"{namespace}/{name}"], sha256)
            case [kinds, namespace, name, "info", "lfs", "objects", ("batch" | "verify") as verb]:
                return getattr(self, verb)(self.visible(kinds[:-1], f"{namespace}/{name.removesuffix('.git')}"))
            case [kinds, namespace, name, "resolve", revision, *file]:
                return self.resolve(self.visible(kinds[:-1], f"{namespace}/{name}"), revision, "/".join(file))
        raise refusal(404, f"Sorry, we can't find the page you are looking for: {self.path}")

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def owns(self, namespace: str) -> bool:
        return namespace in (self.user.name, *self.user.orgs)

    def visible(self, kind: str, id: str) -> Repo:
        repo = self.hub.repos.get((kind, id))
        if repo is None or (repo.private and not self.owns(repo.namespace)):
            raise refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def check_access(self, repo: Repo, endpoint: str, argument: str = "", *_: str) -> None:
        reads = self.command == "GET" and endpoint != "xet-write-token" or endpoint == "paths-info"
        if not reads or (endpoint, argument) == ("auth-check", "write"):
            proposes = "create_pr" in self.query or argument.startswith("refs/pr/")
            self.check_write(repo.namespace, proposes or (endpoint, argument) == ("discussions", ""))

    def check_write(self, namespace: str, proposes: bool = False) -> None:
        """Anyone with a write token may propose; to change what is there one must own the namespace."""
        if not self.user.name:
            raise refusal(401, "Invalid username or password.")
        if self.user.role != "write":
            raise refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if not proposes and not self.owns(namespace):
            raise refusal(403, f'You don\'t have the rights to create or change a repo under "{namespace}"')

    def check_download(self, repo: Repo) -> None:
        if repo.gated and self.user.name not in repo.granted and not self.owns(repo.namespace):
            raise refusal(403, f"Access to {repo.kind} {repo.id} is restricted.", "GatedRepo")

    def fits(self, namespace: str, more: int) -> bool:
        """Whether the quota has room for this many bytes."""
        repos = [repo for repo in self.hub.repos.values() if repo.namespace == namespace]
        used = sum(len(data) for repo in repos for etag, data in repo.objects.items() if len(etag) == 64)
        return self.user.quota_bytes is None or used + more <= self.user.quota_bytes

    def page(self, repo: Repo) -> str:
        return f"{self.hub.url}/{'' if repo.kind == 'model' else f'{repo.kind}s/'}{repo.id}"

    def whoami(self) -> Any:
        if not self.user.name:
            raise refusal(401, "Invalid username or password.")
        orgs = [{"name": org} for org in self.user.orgs]
        return {"type": "user", "name": self.user.name, "orgs": orgs, "auth": {"type": "access_token"}}

    def create(self, name: str, type: str = "model", organization: str = "", visibility: str = "", **_: Any) -> Any:
        namespace = organization or self.user.name
        self.check_write(namespace)
        if type == "space" and not _.get("sdk"):
            raise refusal(400, "No space_sdk provided")
        known = self.hub.repos.get((type, f"{namespace}/{name}"))
        repo = known or self.hub.add_repo(type, f"{namespace}/{name}", private=visibility == "private")
        answer = {"url": self.page(repo), "name": repo.id}
        return Reply(409, answer | {"error": f"You already created this {type} repo"}) if known else answer

    def delete(self, name: str, type: str = "model", organization: str = "", **_: Any) -> None:
        repo = self.visible(type, f"{organization or self.user.name}/{name}")
        self.check_write(repo.namespace)
        del self.hub.repos[repo.kind, repo.id]

    def put_settings(self, repo: Repo) -> None:
        repo.gated = self.json.get("gated", repo.gated)
        repo.private = self.json.get("visibility", "private" if repo.private else "public") == "private"

    def get_auth_check(self, repo: Repo, *_: str) -> None:
        self.check_download(repo)

    def get_revision(self, repo: Repo, revision: str = "main") -> Any:
        commit = repo.at(revision)
        siblings = [{"rfilename": path} for path in commit.tree]
        if "blobs" in self.query:
            siblings = [{"rfilename": path, "blobId": file["oid"], **file} for path, file in commit.tree.items()]
        facts = {"id": repo.id, "author": repo.namespace, "private": repo.private, "gated": repo.gated, "tags": []}
        return {**facts, "sha": commit.oid, "lastModified": commit.date, "siblings": siblings}

    def get_refs(self, repo: Repo) -> Any:
        def refs(prefix: str, named: dict[Any, str]) -> list[dict[str, str]]:
            return [{"name": str(name), "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in named.items()]

        pulls = refs("refs/pr/", {num: pull["head"] for num, pull in repo.pulls.items()})
        heads, tags = refs("refs/heads/", repo.branches), refs("refs/tags/", repo.tags)
        return {"branches": heads, "tags": tags, "converts": [], "pullRequests": pulls}

    def paged(self, items: list[Any]) -> Reply:
        start = int(self.query.get("cursor", 0))
        stop = start + self.hub.page_size
        query = urlencode({**self.query, "cursor": stop})
        more = {"Link": f'<{self.hub.url}{self.path.split("?")[0]}?{query}>; rel="next"'} if stop < len(items) else {}
        return Reply(200, items[start:stop], **more)

    def get_commits(self, repo: Repo, revision: str) -> Reply:
        log = [commit._asdict() | {"tree": None, "id": commit.oid, "message": ""} for commit in repo.commits(revision)]
        return self.paged([{**commit, "authors": [{"user": commit["author"]}]} for commit in log])

    def get_tree(self, repo: Repo, revision: str, *folder: str) -> Reply:
        entries = listing(repo.files(revision), "/".join(folder), self.query.get("recursive") in ("true", "True", "1"))
        if folder and not entries:
            raise refusal(404, f"{'/'.join(folder)} does not exist on {revision}", "EntryNotFound")
        return self.paged(entries)

    def post_paths_info(self, repo: Repo, revision: str) -> Any:
        paths = [path.strip("/") for path in parse_qs(self.body.decode()).get("paths", [])]
        return [file for file in listing(repo.files(revision)) if file["path"] in paths]

    def resolve(self, repo: Repo, revision: str, path: str) -> Reply:
        self.check_download(repo)
        commit = repo.at(revision)
        if path not in commit.tree:
            raise refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        data, etag = repo.read(path, commit.oid), commit.tree[path]["etag"]
        headers = {"X_Repo_Commit": commit.oid, "ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return Reply(200, data, **headers)
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= stop:
            return Reply(416, b"", Content_Range=f"bytes */{len(data)}")
        return Reply(206, data[start:stop], **headers, Content_Range=f"bytes {start}-{stop - 1}/{len(data)}")

    def check_batch(self, items: list[Any]) -> list[Any]:
        if len(items) > MAX_BATCH:
            raise refusal(413, f"at most {MAX_BATCH} files a request")
        return items

    def post_preupload(self, repo: Repo, revision: str) -> Any:
        tree, files = repo.files(revision), []
        for file in self.check_batch(self.json["files"]):
            mode = "lfs" if is_lfs(file["path"], base64.b64decode(file["sample"]), file["size"]) else "regular"
            facts = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            files.append(facts | {"oid": tree.get(file["path"], {}).get("etag")})
        return {"files": files}

    def batch(self, repo: Repo) -> Any:
        ref = self.json.get("ref", {"name": "refs/pr/"})["name"]  # none: for a pull request to come
        self.check_write(repo.namespace, proposes=ref.startswith("refs/pr/"))
        answers, planned = [], 0
        for item in self.check_batch(self.json["objects"]):
            answers.append({"oid": item["oid"], "size": item["size"]})
            if item["oid"] not in repo.objects:
                planned += item["size"]
                if self.fits(repo.namespace, planned):
                    answers[-1]["actions"] = self.upload_actions(repo, **item)
                else:
                    answers[-1]["error"] = {"code": 403, "message": "quota exceeded"}
        return {"transfer": "basic", "objects": answers}

    def upload_actions(self, repo: Repo, oid: str, size: int) -> Any:
        href, chunk = f"{self.hub.url}/storage/{repo.kind}/{repo.id}/{oid}", self.hub.multipart_above
        parts = {f"{part:05}": f"{href}?part={part}" for part in range(1, -(-size // chunk) + 1)}
        header = {"chunk_size": str(chunk), **parts} if size > chunk else {}
        verify = f"{self.page(repo)}.git/info/lfs/objects/verify"
        return {"upload": {"href": href, "header": header}, "verify": {"href": verify}}

    def transfer(self, repo: Repo, sha256: str) -> Reply:
        """PUT of an object, or of a part of it; POST puts the parts together."""
        parts = repo.parts.setdefault(sha256, {})
        if "part" in self.query:
            parts[int(self.query["part"])] = self.body
            return Reply(200, ETag=git_sha1(self.body))
        data = self.body
        if self.command == "POST":
            data = b"".join(parts[part["partNumber"]] for part in self.json["parts"])
        if hashlib.sha256(data).hexdigest() != sha256:
            raise refusal(*INJECTED["wrong-hash"])
        repo.objects[sha256] = data
        return Reply(200)

    def verify(self, repo: Repo) -> Any:
        if len(repo.objects.get(self.json["oid"], b"")) != self.json["size"]:
            raise refusal(422, "the object was not received, or has another size")
        return {}

    def get_xet_write_token(self, repo: Repo, revision: str) -> Any:
        repo.at(revision if "create_pr" not in self.query else "main")
        return {"accessToken": "xet", "exp": 4_000_000_000, "casUrl": f"local://{self.hub.cas}"}

    def post_commit(self, repo: Repo, revision: str) -> Any:
        header, *lines = [json.loads(line) for line in self.body.splitlines()]
        title, parent = header["value"]["summary"], header["value"].get("parentCommit")
        answer, head = {}, repo.head(revision)
        if parent not in (None, head) and "create_pr" not in self.query:
            raise refusal(412, "A commit has happened since. Please refresh and try again.")
        changes = self.changes(repo, repo.files(head), [(line["key"], line["value"]) for line in lines])
        if "create_pr" in self.query:
            num = repo.propose(title, self.user.name, parent or head, "open")
            revision, answer = f"refs/pr/{num}", {"pullRequestUrl": f"{self.page(repo)}/discussions/{num}"}
        oid = repo.commit(revision, title, changes, self.user.name)
        return {**answer, "commitOid": oid, "commitUrl": f"{self.page(repo)}/commit/{oid}"}

    def changes(self, repo: Repo, tree: dict[str, Entry], lines: list[Any]) -> dict[str, Entry | None]:
        """What a commit does to a tree. Nothing is kept unless every line of it is right."""
        missing = {value["oid"] for key, value in lines if key == "lfsFile"} - repo.objects.keys()
        arrived = read_cas(self.hub.cas, missing) if missing else {}
        if arrived and not self.fits(repo.namespace, sum(map(len, arrived.values()))):
            raise refusal(403, "quota exceeded")
        if missing - arrived.keys():
            raise refusal(400, "Your push was rejected because an LFS pointer pointed to a file that does not exist.")
        changes: dict[str, Entry | None] = {}
        for key, value in lines:
            path = value["path"].rstrip("/")
            if key == "file":
                data = base64.b64decode(value["content"])
                changes[path] = regular(data)
                arrived[git_sha1(data)] = data
            elif key == "lfsFile":
                changes[path] = lfs(value["oid"], len(arrived.get(value["oid"]) or repo.objects[value["oid"]]))
            else:
                gone = [
                    name for name in tree if name == path or (key == "deletedFolder" and name.startswith(path + "/"))
                ]
                if not gone:
                    raise refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                changes |= dict.fromkeys(gone)
        repo.objects |= arrived
        return changes

    def add_ref(self, refs: dict[str, str], name: str, oid: str) -> None:
        if name in refs:
            raise refusal(409, f"Reference already exists: {name}")
        refs[name] = oid

    def post_branch(self, repo: Repo, name: str) -> None:
        self.add_ref(repo.branches, name, repo.head(self.json.get("startingPoint", "main")))

    def post_tag(self, repo: Repo, revision: str) -> None:
        self.add_ref(repo.tags, self.json["tag"], repo.head(revision))

    def drop_ref(self, refs: dict[str, str], name: str) -> None:
        if refs.pop(name, None) is None:
            raise refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")

    def delete_branch(self, repo: Repo, name: str) -> None:
        self.drop_ref(repo.branches, name)

    def delete_tag(self, repo: Repo, name: str) -> None:
        self.drop_ref(repo.tags, name)

    def get_discussions(self, repo: Repo, num: str = "") -> Any:
        pulls = list(repo.pulls.values())
        return self.pull(repo, num) if num else {"discussions": pulls, "count": len(pulls), "start": 0}

    def pull(self, repo: Repo, num: str) -> dict[str, Any]:
        repo.at(f"refs/pr/{num}")  # or 404
        return repo.pulls[int(num)]

    def post_discussions(self, repo: Repo, num: str = "", action: str = "") -> Any:
        if not num:
            return {"num": repo.propose(self.json["title"], self.user.name, repo.head(), "draft")}
        pull = self.pull(repo, num)
        if action == "merge" and pull["status"] != "open":
            raise refusal(409, f"This pull request is {pull['status']}, not open.")
        if action == "merge":
            repo.merge(int(num), self.user.name)
        else:
            pull["status"] = self.json["status"]
        event = {"id": "0", "type": "status-change", "createdAt": pull["createdAt"], "data": {"status": pull["status"]}}
        return {"newStatus": event}
