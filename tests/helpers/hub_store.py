"""What a Hub for tests stores, and how it describes it to a client: no network in here."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".arrow", ".onnx", ".npz", ".gz", ".zip", ".png", ".jpg")
LFS_BYTES = 10 * 1024 * 1024
KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}
PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
REPO_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Blob:
    """One file's content."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        )

    @cached_property
    def oid(self) -> str:
        data = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files."""

    oid: str
    parent: str | None
    files: dict[str, Blob]
    title: str
    message: str
    author: str
    date: str

    @property
    def summary(self) -> dict[str, str]:
        return {"id": self.oid, "title": self.title, "date": self.date}


@dataclass
class Repo:
    """A repository of either kind."""

    kind: str
    id: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def ref(self, revision: str) -> str:
        """Full name of a branch, tag or pull request."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return name
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request, or commit id of 7 characters or more stands for."""
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = [c for oid, c in self.commits.items() if oid.startswith(revision)]
            if len(found) == 1:
                return found[0]
        return self.commits[self.refs[self.ref(revision)]]

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits from the newest to the first."""
        found, oid = [], self.at(revision).oid
        while oid is not None:
            found.append(self.commits[oid])
            oid = found[-1].parent
        return found

    def add(
        self,
        ref: str,
        changes: dict[str, Blob | None],
        *,
        title: str,
        message: str = "",
        author: str = "system",
        parent: str | None = None,
    ) -> Commit:
        """Commit `changes` (None deletes) on top of `parent` and let `ref` point to it."""
        parent = parent or self.refs.get(ref)
        files = dict(self.commits[parent].files) if parent else {}
        for path, blob in changes.items():
            if blob is None:
                del files[path]
            else:
                files[path] = blob
        tree = sorted((path, blob.oid) for path, blob in files.items())
        identity = json.dumps([parent, tree, title, message, author, len(self.commits)])
        seconds = len(self.commits)
        commit = Commit(
            oid=hashlib.sha1(identity.encode()).hexdigest(),
            parent=parent,
            files=files,
            title=title,
            message=message,
            author=author,
            date=f"2026-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.000Z",
        )
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"error": message}, {"X-Error-Message": message})
        if code is not None:
            self.answer.headers["X-Error-Code"] = code


@dataclass
class Answer:
    """What is sent back; a `body` that is not bytes goes out as JSON."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before it is sent."""
    byte_s: float = 0.0
    """Before each byte of the body."""
    resets_after: int | None = None
    """Bytes of the body after which the connection is reset."""


@dataclass(frozen=True)
class Request:
    """What was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


def kind_of(prefix: str | None) -> str:
    return prefix.removesuffix("/") if prefix else "models"


def is_lfs(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_BYTES)


def expanded(request: Request) -> bool:
    return request.query.get("expand", [""])[0].lower() in ("1", "true")


def upload_mode(commit: Commit, wanted: dict[str, Any]) -> dict[str, Any]:
    old = commit.files.get(wanted["path"])
    mode = "lfs" if is_lfs(wanted["path"], wanted["size"]) else "regular"
    return {"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False, "oid": old.etag if old else None}


def entry_of(commit: Commit, path: str, *, expand: bool) -> dict[str, Any] | None:
    blob = commit.files.get(path)
    if blob is None:
        if not any(name.startswith(f"{path}/") for name in commit.files):
            return None
        entry = {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    else:
        entry = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return {**entry, "lastCommit": commit.summary} if expand else entry


def tree_of(commit: Commit, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    inside = [path for path in commit.files if path.startswith(prefix)]
    if folder and not inside:
        raise Refused(404, "EntryNotFound", f"{folder} does not exist")
    names: dict[str, None] = {}
    for path in sorted(inside):
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) + 1 if recursive else 2):
            names[prefix + "/".join(parts[:depth])] = None
    return [entry for name in names if (entry := entry_of(commit, name, expand=expand)) is not None]


def info_of(repo: Repo, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    siblings = []
    for path, blob in commit.files.items():
        found: dict[str, Any] = {"rfilename": path}
        if blobs:
            found |= {"size": len(blob.content), "blobId": blob.oid}
            if blob.lfs:
                found["lfs"] = {"size": len(blob.content), "sha256": blob.sha256, "pointerSize": len(blob.pointer)}
        siblings.append(found)
    first = repo.history(commit.oid)[-1]
    return {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.oid,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": first.date,
        "lastModified": commit.date,
        "siblings": siblings,
    }


def refs_of(repo: Repo, *, pulls: bool) -> dict[str, list[dict[str, str]]]:
    def named(prefix: str, strip: str) -> list[dict[str, str]]:
        found = [(ref, oid) for ref, oid in repo.refs.items() if ref.startswith(prefix)]
        return [{"name": ref.removeprefix(strip), "ref": ref, "targetCommit": oid} for ref, oid in found]

    answer = {
        "branches": named("refs/heads/", "refs/heads/"),
        "tags": named("refs/tags/", "refs/tags/"),
        "converts": [],
    }
    return {**answer, "pullRequests": named("refs/pr/", "refs/pr/")} if pulls else answer


def pulls_of(repo: Repo, query: dict[str, list[str]]) -> dict[str, Any]:
    status = query.get("status", ["all"])[0]
    found = [
        {
            "num": number,
            "title": pull["title"],
            "status": pull["status"],
            "author": {"name": pull["author"]},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "isPullRequest": True,
            "repo": {"name": repo.id, "type": repo.kind.removesuffix("s")},
        }
        for number, pull in sorted(repo.pulls.items(), reverse=True)
        if status in ("all", pull["status"])
    ]
    return {"discussions": found, "count": len(found), "start": 0}


def change_ref(request: Request, repo: Repo, what: str, name: str) -> Answer:
    prefix = "refs/heads/" if what == "branch" else "refs/tags/"
    if request.method == "DELETE":
        if repo.refs.pop(prefix + name, None) is None:
            raise Refused(404, "RevisionNotFound", f"no such {what}")
        return Answer()
    wanted = request.json()
    start, new = (wanted.get("startingPoint", "main"), name) if what == "branch" else (name, wanted["tag"])
    if prefix + new in repo.refs:
        raise Refused(409, None, f"{what} already exists: {new}")
    repo.refs[prefix + new] = repo.at(start).oid
    return Answer()


def validate_card(content: str) -> Answer:
    """The checks that a push would fail on: readable metadata, and a base model that is an id."""
    block = re.match(r"\s*---\r?\n(.*?)\n---\s*(\n|$)", content, re.DOTALL)
    if block is None:
        return Answer(body={"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        metadata = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return Answer(400, {"errors": [{"message": str(error)}], "warnings": []})
    base = metadata.get("base_model", []) if isinstance(metadata, dict) else [""]
    wrong = [name for name in ([base] if isinstance(base, str) else base) if not REPO_ID.fullmatch(name)]
    errors = [{"message": f'"base_model" with value "{name}" is not valid. Use a model id.'} for name in wrong]
    return Answer(400 if errors else 200, {"errors": errors, "warnings": []})
