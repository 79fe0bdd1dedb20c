"""A Hugging Face Hub in memory, on 127.0.0.1, for the real huggingface_hub and datasets clients, with faults on demand.

    hub = Hub()
    hub.start()  # then set HF_ENDPOINT=hub.url, before huggingface_hub or datasets is imported
    hub.faults.append(Fault("503", on=r"POST .*/commit/"))
    hub.repos[("dataset", "ann/digits")].read("README.md")

Datasets and models; LFS (basic, multipart) and Xet (hf-xet's file store in `hub.cas`). Downloads are plain bytes.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import json
import random
import re
import shutil
import socket
import struct
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import yaml

MAX_BATCH = 256  # files a preupload or LFS batch request may name
LFS_SUFFIXES = {".tar", ".png", ".jpg", ".safetensors", ".parquet", ".npy", ".npz", ".zip", ".gz", ".bin"}
LFS_ABOVE = 10_000_000  # bytes


class Refusal(Exception):
    """An error answer. `code` is the X-Error-Code by which the client picks its exception class."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}

    def reply(self, **body: Any) -> Reply:
        return Reply.json({"error": str(self), **body}, self.status, **self.headers)


@dataclass
class Reply:
    """An answer; `fault` is what happens to it on the way out."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        body = json.dumps(value, default=str).encode()  # str: YAML front matter may hold dates
        return cls(status, body, {"Content-Type": "application/json", **headers})


@dataclass(frozen=True)
class User:
    """Who a token stands for. `quota_bytes` bounds the LFS bytes of a namespace this user writes to."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"
    quota_bytes: int | None = None


USERS = {
    "write-token": User("ann", ("lab",)),
    "read-token": User("ann", ("lab",), role="read"),
    "other-token": User("bob"),
}


@dataclass
class Fault:
    """After `after` requests that match `on`, the next `times` are hit.

    Kinds: 429 500 502 503 504 reset stall wrong-hash stale-parent expired-token lost-response truncated.
    """

    kind: str
    on: str = ""  # regex searched in "METHOD /path?query"
    after: int = 0
    times: int = 1
    seen: int = 0

    def hits(self, request: str) -> bool:
        if not re.search(self.on, request):
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


PULL_STEPS = {
    r"^HEAD .*/resolve/": ("429", "500", "503", "reset", "stall", "expired-token"),
    r"^GET .*/resolve/": ("429", "500", "503", "reset", "stall", "truncated"),
    r"^GET /api/\w+/[^/]+/[^/?]+(/revision/[^/?]+)?(\?|$)": ("429", "502", "503", "reset", "expired-token"),
    r"^GET .*/tree/": ("429", "503", "504", "reset", "stall"),
}
PUSH_STEPS = PULL_STEPS | {
    r"^POST /api/repos/create": ("429", "500", "reset", "expired-token", "lost-response"),
    r"^PUT .*/settings$": ("429", "503", "reset", "lost-response"),
    r"^POST .*/preupload/": ("429", "503", "reset", "stall", "expired-token"),
    r"^POST .*/commit/": ("429", "500", "503", "reset", "stall", "stale-parent", "lost-response", "expired-token"),
    r"^POST .*/tag/": ("429", "503", "reset", "lost-response"),
}
LFS_STEPS = {
    r"^POST .*/objects/batch": ("429", "503", "reset", "expired-token"),
    r"^PUT /storage/": ("500", "503", "reset", "stall", "wrong-hash", "lost-response"),
    r"^POST .*/objects/verify": ("429", "503", "reset"),
}
XET_STEPS = {r"/xet-write-token/": ("503", "reset", "expired-token")}


def schedule(seed: int, xet: bool) -> list[Fault]:
    """1 to 6 faults over the steps of a push and a pull; each is over after at most two requests."""
    rng = random.Random(seed)
    steps = list((PUSH_STEPS | (XET_STEPS if xet else LFS_STEPS)).items())
    drawn = [rng.choice(steps) for _ in range(rng.randint(1, 6))]
    return [Fault(rng.choice(kinds), on, rng.choice((0, 0, 0, 1, 2)), rng.choice((1, 1, 1, 2))) for on, kinds in drawn]


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, sample: bytes, size: int) -> bool:
    """The Hub's choice of upload mode: by suffix, by size, or because the first bytes are not text."""
    try:
        codecs.utf_8_decode(sample, "strict", False)  # not final: the sample may end inside a character
    except UnicodeDecodeError:
        return True
    return b"\0" in sample or size > LFS_ABOVE or PurePosixPath(path).suffix in LFS_SUFFIXES


@dataclass(frozen=True)
class Blob:
    """A file in a commit: `oid` is the git sha1 (of the pointer if LFS), `sha256` is None for a regular file."""

    oid: str
    size: int  # bytes
    sha256: str | None = None

    @property
    def key(self) -> str:
        """Where its bytes are in `Repo.objects`, its ETag, and what preupload calls its oid."""
        return self.sha256 or self.oid

    @classmethod
    def lfs(cls, sha256: str, size: int) -> Blob:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return cls(git_sha1(pointer.encode()), size, sha256)

    def entry(self, path: str) -> dict[str, Any]:
        """As listed by tree and paths-info."""
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 134}} if self.sha256 else {}
        return {"type": "file", "oid": self.oid, "size": self.size, "path": path, **lfs}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: dict[str, Blob] = field(repr=False)


@dataclass
class Pull:
    """A pull request: the commits from `base` to `head`, at refs/pr/{num}."""

    num: int
    title: str
    author: str
    base: str
    head: str
    date: str
    status: str = "draft"
    merged: str | None = None  # commit on main


@dataclass
class Repo:
    """One repository with its whole history and the bytes of every object it was ever given."""

    kind: str  # "dataset" or "model"
    id: str
    private: bool = False
    gated: bool | str = False
    granted: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, Pull] = field(default_factory=dict)
    history: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)  # of unfinished multipart uploads

    def __post_init__(self) -> None:
        attributes = self.store(".gitattributes", b"*.tar filter=lfs diff=lfs merge=lfs -text\n")
        self.commit("main", "initial commit", {".gitattributes": attributes})

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def refs(self) -> dict[str, str]:
        pulls = {f"refs/pr/{pull.num}": pull.head for pull in self.pulls.values()}
        heads = {f"refs/heads/{name}": oid for name, oid in self.branches.items()}
        return {**self.tags, **pulls, **heads, **self.branches}

    def at(self, revision: str) -> Commit:
        """The commit a branch, tag, pull request ref or commit oid stands for."""
        oid = self.refs.get(revision, revision)
        if oid not in self.history:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[oid]

    def head(self, revision: str = "main") -> str:
        return self.at(revision).oid

    def files(self, revision: str = "main") -> dict[str, Blob]:
        return dict(self.at(revision).tree)

    def read(self, path: str, revision: str = "main") -> bytes:
        return self.objects[self.at(revision).tree[path].key]

    def commits(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        log = [self.at(revision)]
        while (parent := log[-1].parent) is not None:
            log.append(self.history[parent])
        return log

    def store(self, path: str, data: bytes) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        lfs = is_lfs(path, data[:512], len(data))
        blob = Blob.lfs(sha256, len(data)) if lfs else Blob(git_sha1(data), len(data))
        self.objects[blob.key] = data
        return blob

    def commit(
        self, ref: str, title: str, changes: dict[str, Blob | None], author: str = "hub", message: str = ""
    ) -> Commit:
        """Advance a branch or a pull request; None deletes. The first commit of a repository makes main."""
        parent = self.at(ref) if self.history else None
        tree = {**(parent.tree if parent else {}), **changes}
        content = {path: blob for path, blob in sorted(tree.items()) if blob is not None}
        date = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(self.history))
        oid = hashlib.sha1(f"{self.kind} {self.id} {date} {parent and parent.oid} {title} {content}".encode())
        commit = Commit(
            oid.hexdigest(), parent and parent.oid, title, message, author, f"{date:%Y-%m-%dT%H:%M:%S.000Z}", content
        )
        self.history[commit.oid] = commit
        if ref.startswith("refs/pr/"):
            self.pulls[int(ref.removeprefix("refs/pr/"))].head = commit.oid
        else:
            self.branches[ref.removeprefix("refs/heads/")] = commit.oid
        return commit

    def open_pull(self, title: str, author: str, base: str, status: str) -> Pull:
        pull = Pull(len(self.pulls) + 1, title, author, base, base, self.history[base].date, status)
        self.pulls[pull.num] = pull
        return pull

    def conflicts(self, pull: Pull) -> tuple[dict[str, Blob | None], list[str]]:
        """What a merge would change on main, and the files among it that main has changed otherwise."""
        base, ours, theirs = self.history[pull.base].tree, self.at("main").tree, self.history[pull.head].tree
        changes = {path: theirs.get(path) for path in {*base, *theirs} if base.get(path) != theirs.get(path)}
        return changes, [path for path, blob in changes.items() if ours.get(path) not in (base.get(path), blob)]

    def receive(self, sha256: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refusal(400, "BadDigest: the sha256 of the body is not the one announced.")
        self.objects[sha256] = data


def shard_index(shard: bytes) -> dict[str, tuple[str, int]]:
    """A Xet shard's files: sha256 -> (Xet hash, bytes). Records of 48 B: header, segments, verifications, sha256."""

    def hexadecimal(raw: bytes) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))

    files, position = {}, 48
    while (xet_hash := shard[position : position + 32]) != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, position + 32)
        sizes = [struct.unpack_from("<I", shard, position + 48 * (i + 1) + 36)[0] for i in range(segments)]
        position += 48 * (1 + segments * (2 if flags >> 31 else 1))
        if flags >> 30 & 1:
            files[hexadecimal(shard[position : position + 32])] = (hexadecimal(xet_hash), sum(sizes))
            position += 48
    return files


def read_cas(cas: Path, wanted: set[str]) -> dict[str, bytes]:
    """sha256 -> bytes, for the wanted files that are in hf-xet's file store, read back and checked."""
    index: dict[str, tuple[str, int]] = {}
    for shard in cas.glob("xet/xorbs/shards/*.mdb"):
        index |= shard_index(shard.read_bytes())
    found = {sha256: index[sha256] for sha256 in wanted if sha256 in index}
    if not found:
        return {}
    import hf_xet  # late: it reads its environment when imported

    with tempfile.TemporaryDirectory() as copy:  # hf-xet locks the store's database, and the client may have it open
        view = Path(copy, "xet", "xorbs")
        view.mkdir(parents=True)
        for name in ("xorbs", "shards"):
            (view / name).symlink_to(cas / "xet" / "xorbs" / name)
        shutil.copy(cas / "xet" / "xorbs" / "global_dedup_lookup.redb", view)
        group = hf_xet.XetSession().new_download_stream_group(endpoint=f"local://{copy}")
        data = {key: b"".join(group.download_stream(hf_xet.XetFileInfo(*info))) for key, info in found.items()}
    return {key: content for key, content in data.items() if hashlib.sha256(content).hexdigest() == key}


def front_matter(card: str) -> Any:
    match = re.match(r"\s*---\s*\n(.*?)\n---", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def listing(tree: dict[str, Blob], folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
    """Files and folders below a folder, by path."""
    inside = {path: blob for path, blob in tree.items() if not folder or path.startswith(folder + "/")}
    entries = {path: blob.entry(path) for path, blob in inside.items()}
    for path in inside:
        for parent in map(str, PurePosixPath(path).parents):
            if len(parent) > len(folder) and parent != ".":
                oid = hashlib.sha1(parent.encode()).hexdigest()
                entries[parent] = {"type": "directory", "oid": oid, "size": 0, "path": parent}
    depth = folder.count("/") + 1 if folder else 0
    return [entries[path] for path in sorted(entries) if recursive or path.count("/") == depth]


def ranged(data: bytes, header: str | None, headers: dict[str, str]) -> Reply:
    """The whole body, or the one range asked for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not match or match[0] == "bytes=-":
        return Reply(200, data, headers)
    start = int(match[1]) if match[1] else max(0, len(data) - int(match[2]))
    stop = min(int(match[2]) + 1, len(data)) if match[1] and match[2] else len(data)
    if start >= stop:
        return Reply(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Reply(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


@dataclass
class Call:
    """One request; `path` holds the decoded segments."""

    method: str
    target: str  # as sent: path?query
    headers: Any
    body: bytes
    user: User | None

    def __post_init__(self) -> None:
        self.line = f"{self.method} {self.target}"
        self.route = self.target.split("?")[0]
        self.path = [unquote(segment) for segment in self.route.strip("/").split("/")]
        self.query = dict(parse_qsl(urlsplit(self.target).query))

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


class Routes:
    """The endpoints. Those of a repository are methods named <method>_<endpoint>."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def answer(self, call: Call) -> Reply:
        match call.path:
            case ["api", "whoami-v2"]:
                return self.whoami(call)
            case ["api", "validate-yaml"]:
                return self.validate_yaml(call)
            case ["api", "repos", ("create" | "delete") as verb]:
                return getattr(self, verb)(call)
            case ["api", ("datasets" | "models") as kinds, namespace, name, *rest]:
                endpoint, *arguments = rest or ["revision"]
                repo = self.visible(call, kinds[:-1], f"{namespace}/{name}")
                handler = getattr(self, f"{call.method}_{endpoint}".lower().replace("-", "_"), None)
                if handler is not None:
                    return handler(call, repo, *arguments)
            case ["storage", kind, namespace, name, sha256]:  # a signed address: no token
                return self.storage(call, self.hub.repos[kind, f"{namespace}/{name}"], sha256)
        kind = "dataset" if call.path[0] == "datasets" else "model"
        match call.path[kind == "dataset" :]:
            case [namespace, name, "info", "lfs", "objects", ("batch" | "verify") as verb]:
                repo = self.visible(call, kind, f"{namespace}/{name.removesuffix('.git')}")
                return getattr(self, verb)(call, repo)
            case [namespace, name, "resolve", revision, *path] if call.method in ("GET", "HEAD"):
                return self.resolve(call, self.visible(call, kind, f"{namespace}/{name}"), revision, "/".join(path))
        raise Refusal(404, f"Sorry, we can't find the page you are looking for: {call.line}")

    # Access.

    def owns(self, user: User | None, namespace: str) -> bool:
        return user is not None and namespace in (user.name, *user.orgs)

    def visible(self, call: Call, kind: str, id: str) -> Repo:
        repo = self.hub.repos.get((kind, id))
        if repo is None or (repo.private and not self.owns(call.user, repo.namespace)):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def writer(self, call: Call, namespace: str, propose: bool = False) -> User:
        """The caller, who must hold a write token, and unless it is for a pull request, own the namespace."""
        if call.user is None:
            raise Refusal(401, "Invalid username or password.")
        if call.user.role != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if not propose and not self.owns(call.user, namespace):
            raise Refusal(
                403, f'You don\'t have the rights to create or change a repo under the namespace "{namespace}"'
            )
        return call.user

    def committer(self, call: Call, repo: Repo, revision: str = "main") -> User:
        return self.writer(call, repo.namespace, "create_pr" in call.query or revision.startswith("refs/pr/"))

    def may_download(self, call: Call, repo: Repo) -> None:
        name = call.user.name if call.user else None
        if repo.gated and name not in repo.granted and not self.owns(call.user, repo.namespace):
            message = f"Access to {repo.kind} {repo.id} is restricted and you are not in the authorized list."
            raise Refusal(403, message, "GatedRepo")

    def check_quota(self, user: User, repo: Repo, more: int) -> None:
        if user.quota_bytes is not None and self.hub.used_bytes(repo.namespace) + more > user.quota_bytes:
            raise Refusal(403, "quota exceeded")

    # Account and repositories.

    def whoami(self, call: Call) -> Reply:
        if call.user is None:
            raise Refusal(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": call.user.role}}
        orgs = [{"type": "org", "name": org} for org in call.user.orgs]
        return Reply.json({"type": "user", "id": call.user.name, "name": call.user.name, "orgs": orgs, "auth": auth})

    def validate_yaml(self, call: Call) -> Reply:
        try:
            card = front_matter(call.json["content"])
        except yaml.YAMLError as error:
            card = str(error)
        errors = [] if card is None or isinstance(card, dict) else [{"message": f"not a YAML mapping: {card}"}]
        warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        return Reply.json({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def create(self, call: Call) -> Reply:
        kind, namespace = call.json.get("type") or "model", call.json.get("organization")
        namespace = namespace or self.writer(call, "", propose=True).name
        self.writer(call, namespace)
        id = f"{namespace}/{call.json['name']}"
        url = self.hub.page(kind, id)
        if (kind, id) in self.hub.repos:
            return Refusal(409, f"You already created this {kind} repo: {id}").reply(url=url)
        self.hub.add_repo(kind, id, private=call.json.get("visibility") == "private")
        return Reply.json({"url": url, "name": id, "id": id})

    def delete(self, call: Call) -> Reply:
        namespace = call.json.get("organization") or self.writer(call, "", propose=True).name
        repo = self.visible(call, call.json.get("type") or "model", f"{namespace}/{call.json['name']}")
        self.writer(call, namespace)
        del self.hub.repos[repo.kind, repo.id]
        return Reply()

    def put_settings(self, call: Call, repo: Repo) -> Reply:
        self.writer(call, repo.namespace)
        repo.gated = call.json.get("gated", repo.gated)
        repo.private = call.json.get("visibility", "private" if repo.private else "public") == "private"
        return Reply.json({"private": repo.private, "gated": repo.gated})

    def get_auth_check(self, call: Call, repo: Repo, write: str = "") -> Reply:
        self.may_download(call, repo)
        if write:
            self.writer(call, repo.namespace)
        return Reply.json({})

    # Reading.

    def get_revision(self, call: Call, repo: Repo, revision: str = "main") -> Reply:
        commit = repo.at(revision)
        siblings = [{"rfilename": path} for path in commit.tree]
        if "blobs" in call.query:
            for sibling, blob in zip(siblings, commit.tree.values(), strict=True):
                lfs = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134} if blob.sha256 else None
                sibling.update(size=blob.size, blobId=blob.oid, lfs=lfs)
        card = front_matter(repo.read("README.md", commit.oid).decode()) if "README.md" in commit.tree else None
        facts = {"id": repo.id, "author": repo.namespace, "private": repo.private, "gated": repo.gated}
        facts |= {"sha": commit.oid, "lastModified": commit.date, "createdAt": "2026-01-01T00:00:00.000Z"}
        return Reply.json({**facts, "siblings": siblings, "cardData": card, "tags": (card or {}).get("tags", [])})

    def get_refs(self, call: Call, repo: Repo) -> Reply:
        def refs(prefix: str, named: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in named.items()]

        pulls = refs("refs/pr/", {str(pull.num): pull.head for pull in repo.pulls.values()})
        heads, tags = refs("refs/heads/", repo.branches), refs("refs/tags/", repo.tags)
        return Reply.json({"branches": heads, "converts": [], "tags": tags, "pullRequests": pulls})

    def page(self, call: Call, items: list[Any]) -> Reply:
        """A page of a listing, with the address of the next one."""
        start = int(call.query.get("cursor", 0))
        stop = start + self.hub.page_size
        link = f'<{self.hub.url}{call.route}?{urlencode({**call.query, "cursor": stop})}>; rel="next"'
        return Reply.json(items[start:stop], **({"Link": link} if stop < len(items) else {}))

    def get_commits(self, call: Call, repo: Repo, revision: str) -> Reply:
        return self.page(
            call,
            [
                {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
                for c in repo.commits(revision)
            ],
        )

    def get_tree(self, call: Call, repo: Repo, revision: str, *folder: str) -> Reply:
        recursive = call.query.get("recursive", "").lower() in ("true", "1")
        entries = listing(repo.at(revision).tree, "/".join(folder), recursive)
        if folder and not entries:
            raise Refusal(404, f"{'/'.join(folder)} does not exist on {revision}", "EntryNotFound")
        return self.page(call, entries)

    def post_paths_info(self, call: Call, repo: Repo, revision: str) -> Reply:
        form = "json" in call.headers.get("Content-Type", "")
        wanted = call.json["paths"] if form else parse_qs(call.body.decode()).get("paths", [])
        paths = {path.strip("/") for path in wanted}
        return Reply.json([entry for entry in listing(repo.at(revision).tree) if entry["path"] in paths])

    def resolve(self, call: Call, repo: Repo, revision: str, path: str) -> Reply:
        self.may_download(call, repo)
        commit = repo.at(revision)
        if path not in commit.tree:
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
        blob = commit.tree[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.key}"', "Accept-Ranges": "bytes"}
        if blob.sha256:
            headers |= {"X-Linked-ETag": f'"{blob.key}"', "X-Linked-Size": str(blob.size)}
        return ranged(repo.objects[blob.key], call.headers.get("Range"), headers)

    # Uploading.

    def post_preupload(self, call: Call, repo: Repo, revision: str) -> Reply:
        self.committer(call, repo, revision)
        files, tree = call.json["files"], repo.at(revision).tree
        if len(files) > MAX_BATCH:
            raise Refusal(413, f"at most {MAX_BATCH} files a request")

        def plan(path: str, sample: str, size: int) -> dict[str, Any]:
            mode = "lfs" if is_lfs(path, base64.b64decode(sample), size) else "regular"
            oid = tree[path].key if path in tree else None
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        return Reply.json({"files": [plan(**file) for file in files]})

    def batch(self, call: Call, repo: Repo) -> Reply:
        ref = call.json.get("ref", {}).get("name", "refs/pr/")  # none: for a pull request to come
        user, planned, objects = self.committer(call, repo, ref), 0, []
        if len(call.json["objects"]) > MAX_BATCH:
            raise Refusal(413, f"at most {MAX_BATCH} objects a request")
        for item in call.json["objects"]:
            oid, size = item["oid"], item["size"]
            answer = {"oid": oid, "size": size}
            try:
                if oid not in repo.objects:
                    planned += size
                    self.check_quota(user, repo, planned)
                    answer["actions"] = self.upload_actions(repo, oid, size)
            except Refusal as error:
                answer["error"] = {"code": error.status, "message": str(error)}
            objects.append(answer)
        return Reply.json({"transfer": "basic", "objects": objects})

    def upload_actions(self, repo: Repo, oid: str, size: int) -> dict[str, Any]:
        href, chunk = f"{self.hub.url}/storage/{repo.kind}/{repo.id}/{oid}", self.hub.multipart_above
        parts = {f"{part:05}": f"{href}?part={part}" for part in range(1, -(-size // chunk) + 1)}
        header = {"chunk_size": str(chunk), **parts} if size > chunk else {}
        verify = self.hub.page(repo.kind, repo.id) + ".git/info/lfs/objects/verify"
        return {"upload": {"href": href, "header": header}, "verify": {"href": verify}}

    def storage(self, call: Call, repo: Repo, sha256: str) -> Reply:
        """PUT of an object or of one part of it, POST to put the parts together."""
        parts = repo.parts.setdefault(sha256, {})
        if "part" in call.query:
            parts[int(call.query["part"])] = call.body
        else:
            numbers = [part["partNumber"] for part in call.json["parts"]] if call.method == "POST" else []
            repo.receive(sha256, b"".join(parts[number] for number in numbers) if numbers else call.body)
        return Reply(headers={"ETag": f'"{hashlib.sha1(call.body).hexdigest()}"'})

    def verify(self, call: Call, repo: Repo) -> Reply:
        if len(repo.objects.get(call.json["oid"], b"")) != call.json["size"]:
            raise Refusal(422, "the object was not received, or has another size")
        return Reply.json({})

    def get_xet_write_token(self, call: Call, repo: Repo, revision: str = "main") -> Reply:
        self.committer(call, repo, revision)
        if "create_pr" not in call.query:
            repo.at(revision)
        return Reply.json({"accessToken": "xet", "exp": 4_000_000_000, "casUrl": f"local://{self.hub.cas}"})

    def post_commit(self, call: Call, repo: Repo, revision: str) -> Reply:
        user = self.committer(call, repo, revision)
        (_, header), *lines = [(line["key"], line["value"]) for line in map(json.loads, call.body.splitlines())]
        head, parent = repo.head(revision), header.get("parentCommit")
        create_pr = "create_pr" in call.query
        if parent not in (None, head) and not create_pr:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        changes = self.changes(repo, user, repo.at(head).tree, lines)
        url = self.hub.page(repo.kind, repo.id)
        answer = {"success": True}
        if create_pr:
            pull = repo.open_pull(header["summary"], user.name, parent or head, "open")
            revision, answer["pullRequestUrl"] = f"refs/pr/{pull.num}", f"{url}/discussions/{pull.num}"
        commit = repo.commit(revision, header["summary"], changes, user.name, header.get("description", ""))
        return Reply.json({**answer, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"})

    def changes(self, repo: Repo, user: User, tree: dict[str, Blob], lines: list[Any]) -> dict[str, Blob | None]:
        """What a commit does to a tree. Nothing is stored unless every line of it is right."""
        missing = {value["oid"] for key, value in lines if key == "lfsFile" and value["oid"] not in repo.objects}
        objects = read_cas(self.hub.cas, missing) if missing else {}
        self.check_quota(user, repo, sum(map(len, objects.values())))
        if missing - objects.keys():
            raise Refusal(400, "Your push was rejected because an LFS pointer pointed to a file that does not exist.")
        changes: dict[str, Blob | None] = {}
        for key, value in lines:
            path = value["path"].rstrip("/")
            if key == "file":
                data = base64.b64decode(value["content"])
                changes[path] = Blob(git_sha1(data), len(data))
                objects[changes[path].key] = data
            elif key == "lfsFile":
                data = objects.get(value["oid"]) or repo.objects[value["oid"]]
                changes[path] = Blob.lfs(value["oid"], len(data))
            else:
                gone = [name for name in tree if name == path or name.startswith(path + "/")]
                if not gone:
                    raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                changes |= dict.fromkeys(gone)
        repo.objects |= objects
        return changes

    # Branches, tags, pull requests.

    def add_ref(self, refs: dict[str, str], name: str, oid: str) -> Reply:
        if name in refs:
            raise Refusal(409, f"Reference already exists: {name}")
        refs[name] = oid
        return Reply.json({})

    def drop_ref(self, refs: dict[str, str], name: str) -> Reply:
        if refs.pop(name, None) is None:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return Reply()

    def post_branch(self, call: Call, repo: Repo, name: str) -> Reply:
        self.writer(call, repo.namespace)
        return self.add_ref(repo.branches, name, repo.head(call.json.get("startingPoint", "main")))

    def delete_branch(self, call: Call, repo: Repo, name: str) -> Reply:
        self.writer(call, repo.namespace)
        return self.drop_ref(repo.branches, name)

    def post_tag(self, call: Call, repo: Repo, revision: str) -> Reply:
        self.writer(call, repo.namespace)
        return self.add_ref(repo.tags, call.json["tag"], repo.head(revision))

    def delete_tag(self, call: Call, repo: Repo, name: str) -> Reply:
        self.writer(call, repo.namespace)
        return self.drop_ref(repo.tags, name)

    def details(self, repo: Repo, pull: Pull) -> dict[str, Any]:
        facts = {"num": pull.num, "title": pull.title, "status": pull.status, "isPullRequest": True, "events": []}
        facts |= {"author": {"name": pull.author}, "repo": {"name": repo.id, "type": repo.kind}, "createdAt": pull.date}
        changes = {"base": "refs/heads/main", "mergeCommitId": pull.merged}
        return {**facts, "changes": changes, "filesWithConflicts": repo.conflicts(pull)[1]}

    def get_discussions(self, call: Call, repo: Repo, num: str = "") -> Reply:
        if num:
            return Reply.json(self.details(repo, repo.pulls[int(num)]))
        pulls = [self.details(repo, pull) for pull in repo.pulls.values()]
        return Reply.json({"discussions": pulls, "count": len(pulls), "start": 0})

    def post_discussions(self, call: Call, repo: Repo, num: str = "", action: str = "") -> Reply:
        user = self.writer(call, repo.namespace, propose=not num)
        if not num:
            return Reply.json({"num": repo.open_pull(call.json["title"], user.name, repo.head(), "draft").num})
        pull = repo.pulls[int(num)]
        if action == "status":
            pull.status = call.json["status"]
            event = {"id": "0", "type": "status-change", "createdAt": pull.date, "data": {"status": pull.status}}
            return Reply.json({"newStatus": event})
        changes, conflicts = repo.conflicts(pull)
        if pull.status != "open" or conflicts:
            raise Refusal(409, f"This pull request is {pull.status} or has conflicts: {conflicts}")
        pull.merged = repo.commit("main", f"{pull.title} (#{pull.num})", changes, user.name).oid
        pull.status = "merged"
        return Reply.json({})


class Hub:
    """The server and what tests see of it. Attributes may be set between requests; `reset` restores them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.routes = Routes(self)
        self._folder = tempfile.TemporaryDirectory(prefix="loopback-")
        self._server: ThreadingHTTPServer | None = None
        self._halt = threading.Event()
        self._resets = 0
        self.reset()

    def reset(self) -> None:
        """As new, but for the port."""
        with self.lock:
            self._resets += 1
            self.cas = Path(self._folder.name, str(self._resets))  # a new store: clients may still hold the old one
            self.users: dict[str, User] = dict(USERS)  # by token
            self.repos: dict[tuple[str, str], Repo] = {}
            self.faults: list[Fault] = []
            self.watch: Callable[[Hub], None] | None = None  # called after every request, under the lock
            self.violations: list[str] = []  # what `watch` raised, and errors of the server itself
            self.multipart_above = 50_000_000  # bytes; also the bytes of a part
            self.page_size, self.stall_s, self.retry_after_s = 1000, 1.0, 0
            self.forget_traffic()

    def forget_traffic(self) -> None:
        self.requests: list[str] = []
        self.received_bytes = 0  # of LFS objects

    def start(self) -> None:
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="loopback", daemon=True).start()

    def stop(self) -> None:
        self._halt.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._folder.cleanup()

    def page(self, kind: str, id: str) -> str:
        return f"{self.url}/{'datasets/' if kind == 'dataset' else ''}{id}"

    def add_repo(
        self, kind: str, id: str, files: dict[str, bytes] | None = None, private: bool = False, gated: bool = False
    ) -> Repo:
        repo = self.repos[kind, id] = Repo(kind, id, private, "auto" if gated else False)
        if files:
            repo.commit("main", "add files", {path: repo.store(path, data) for path, data in files.items()})
        return repo

    def flip_bit(self, kind: str, id: str, path: str, offset: int) -> None:
        """Damage the stored bytes of a file on main; its hashes go on saying what they were."""
        repo = self.repos[kind, id]
        data = bytearray(repo.read(path))
        data[offset] ^= 1
        repo.objects[repo.at("main").tree[path].key] = bytes(data)

    def used_bytes(self, namespace: str) -> int:
        """LFS bytes of a namespace."""
        repos = [repo for repo in self.repos.values() if repo.namespace == namespace]
        return sum(len(data) for repo in repos for key, data in repo.objects.items() if len(key) == 64)

    def answer(self, call: Call) -> Reply:
        """Apply a request, or the fault that is due for it."""
        with self.lock:
            self.requests.append(call.line)
            self.received_bytes += len(call.body) * call.route.startswith("/storage/") * (call.method == "PUT")
            kind = next((fault.kind for fault in list(self.faults) if fault.hits(call.line)), "")
            try:
                self.raise_fault(kind, call)
                reply = Reply() if kind in ("reset", "stall") else self.routes.answer(call)
            except Refusal as error:
                reply = error.reply()
            except Exception:
                self.violations.append(traceback.format_exc())
                reply = Reply.json({"error": "error in the loopback Hub"}, 500)
            self.look()
        reply.fault = kind
        return reply

    def raise_fault(self, kind: str, call: Call) -> None:
        if kind == "429":
            raise Refusal(429, "Too many requests", **{"Retry-After": str(self.retry_after_s)})
        if kind.isdigit():
            raise Refusal(int(kind), f"Injected error {kind}")
        if kind == "wrong-hash":
            raise Refusal(400, "BadDigest: the sha256 of the body is not the one announced.")
        if kind == "expired-token":
            raise Refusal(401, 'User Access Token "test" is expired')
        if kind == "stale-parent":
            _, kinds, namespace, name, _, revision = call.path
            repo = self.repos[kinds[:-1], f"{namespace}/{name}"]
            more = repo.read(".gitattributes", revision) + b"# by somebody else\n"
            repo.commit(revision, "by somebody else", {".gitattributes": repo.store(".gitattributes", more)})

    def look(self) -> None:
        try:
            if self.watch is not None:
                self.watch(self)
        except Exception as error:
            self.violations.append(f"{self.requests[-1]}: {error!r}")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our business."""


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive in front of `Hub.answer`."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        reply = self.hub.answer(Call(self.command, self.path, self.headers, body, self.hub.users.get(token)))
        if reply.fault == "stall":
            self.hub._halt.wait(self.hub.stall_s)
        if reply.fault in ("reset", "stall", "lost-response"):
            self.abort()
        else:
            self.send(reply, cut=reply.fault == "truncated" and self.command == "GET")

    def send(self, reply: Reply, cut: bool) -> None:
        """Half of the body only if `cut`."""
        self.close_connection |= cut
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if cut else reply.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond  # noqa: N815

    def abort(self) -> None:
        """Close with RST instead of FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def log_message(self, *_: Any) -> None:
        """Silent."""
