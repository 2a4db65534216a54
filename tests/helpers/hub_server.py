"""A Hub on the loopback interface for tests: real HTTP, spoken to by the real huggingface_hub, kept in memory.

    with hub_server() as server:
        HfApi(endpoint=server.endpoint, token=server.token).create_repo("tester/model")
        subprocess.run([...], env={**os.environ, **server.environment(tmp_path)})

Repositories have commits with parents, branches, tags and pull requests; files are stored by content, large ones
through the LFS protocol. Writes need the token of a user who owns the namespace. `fail`, `drop_answer`, `intervene`,
`reset_request`, `reset_answer` and `delay` disturb chosen requests; `requests` holds everything that was received."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import secrets
import socket
import string
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.hub_store import (
    KINDS,
    LFS_SUFFIXES,
    Answer,
    Blob,
    Refused,
    Repo,
    Request,
    change_ref,
    entry_of,
    expanded,
    info_of,
    is_lfs,
    kind_of,
    pulls_of,
    refs_of,
    tree_of,
    upload_mode,
    validate_card,
)


def new_token() -> str:
    """A token of the real shape, different every time, so that none can be found in any file."""
    return "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))


@dataclass
class Fault:
    """What happens to the next `times` requests that match."""

    method: str
    pattern: re.Pattern[str]
    times: int
    action: Callable[[], None] | None = None
    answer: Answer | None = None
    after_commit: bool = False
    drop: bool = False
    reset_request: bool = False
    changes: dict[str, Any] | None = None
    """Fields of the answer that are others."""


class _Quiet(ThreadingHTTPServer):
    """A server that prints nothing when a client has gone away."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client gave up waiting, or the connection was reset."""


class HubServer:
    """The Hub's state, its routes, and the helpers that tests use to fill and to disturb it."""

    def __init__(self) -> None:
        self.token = new_token()
        self.users = {self.token: "tester"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.renamed: dict[str, str] = {}
        self.lock = threading.RLock()
        self.http = _Quiet(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"

    # ---- for tests

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point a fresh process at this server, with its caches in `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_ETAG_TIMEOUT": "30",
        }

    def connect(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Let huggingface_hub in this process reach the server, when it is told the endpoint, as user `tester`."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setenv("HF_TOKEN", self.token)

    def fail(
        self,
        method: str,
        path: str,
        *,
        status: int,
        times: int = 1,
        after_commit: bool = False,
        headers: dict[str, str] | None = None,
        message: str = "disturbed",
    ) -> None:
        """Answer with `status`, before the request takes effect or after."""
        answer = Answer(status, {"error": message}, {"X-Error-Message": message, **(headers or {})})
        self.faults.append(Fault(method, re.compile(path), times, answer=answer, after_commit=after_commit))

    def drop_answer(self, method: str, path: str, *, times: int = 1) -> None:
        """Let the request take effect, then close the connection without an answer."""
        self.faults.append(Fault(method, re.compile(path), times, drop=True))

    def intervene(self, method: str, path: str, action: Callable[[], None]) -> None:
        """Run `action` just before the next matching request takes effect: someone else was faster."""
        self.faults.append(Fault(method, re.compile(path), 1, action=action))

    def reset_request(self, method: str, path: str, *, times: int = 1) -> None:
        """Reset the connection in the middle of the request's body, which takes no effect."""
        self.faults.append(Fault(method, re.compile(path), times, reset_request=True))

    def reset_answer(self, method: str, path: str, *, times: int = 1, after_bytes: int = 0) -> None:
        """Let the request take effect, and reset the connection in the middle of the answer's body."""
        self.faults.append(Fault(method, re.compile(path), times, changes={"resets_after": after_bytes}))

    def delay(self, method: str, path: str, *, times: int = 1, seconds: float = 0.0, byte_s: float = 0.0) -> None:
        """Let the request take effect, but send the answer late, or each byte of its body."""
        self.faults.append(Fault(method, re.compile(path), times, changes={"delay_s": seconds, "byte_s": byte_s}))

    def rename(self, repo_id: str, new: str) -> None:
        """Rename a model; its old name redirects to the new one."""
        repo = self.repos.pop((KINDS["model"], repo_id))
        repo.id = new
        self.repos[repo.kind, new] = repo
        self.renamed[repo_id] = new

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        """The repository, for assertions."""
        return self.repos[KINDS[kind], repo_id]

    def create(self, repo_id: str, kind: str = "model", *, private: bool = False) -> Repo:
        """A new repository with the Hub's own first commit."""
        repo = Repo(KINDS[kind], repo_id, private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.add("refs/heads/main", {".gitattributes": Blob(attributes.encode(), False)}, title="initial commit")
        self.repos[repo.kind, repo_id] = repo
        return repo

    def commit(
        self,
        repo_id: str,
        files: dict[str, bytes],
        *,
        kind: str = "model",
        revision: str = "main",
        title: str = "by someone else",
    ) -> str:
        """Commit past the protocol; returns the commit's id."""
        repo = self.repo(repo_id, kind)
        blobs = {path: Blob(content, is_lfs(path, len(content))) for path, content in files.items()}
        return repo.add(repo.ref(revision), blobs, title=title).oid

    def add_model(self, repo_id: str, folder: Path, *, private: bool = False) -> str:
        """A model repository with the files of `folder`; returns the commit's id."""
        self.create(repo_id, private=private)
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.commit(repo_id, files, title="model")

    def add_dataset(
        self, repo_id: str, splits: dict[str, pa.Table], *, config: str = "default", private: bool = False
    ) -> str:
        """A data set of one parquet file a split, or one more configuration of it; returns the commit's id.

        Features of `datasets` travel in a table's own metadata (`Dataset.data.table`), so class names survive.
        """
        if (KINDS["dataset"], repo_id) not in self.repos:
            self.create(repo_id, "dataset", private=private)
        files, configs = {}, []
        if (old := self.repo(repo_id, "dataset").at("main").files.get("README.md")) is not None:
            configs = yaml.safe_load(old.content.decode().split("---")[1])["configs"]
        for split, table in splits.items():
            sink = io.BytesIO()
            pq.write_table(table, sink)
            files[f"{config}/{split}-00000-of-00001.parquet"] = sink.getvalue()
        paths = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        configs = [c for c in configs if c["config_name"] != config] + [{"config_name": config, "data_files": paths}]
        files["README.md"] = f"---\n{yaml.safe_dump({'configs': configs})}---\n".encode()
        return self.commit(repo_id, files, kind="dataset", title="data")

    def holding(self, text: str) -> list[str]:
        """Where `text` occurs in what the server stores: files and commit messages."""
        found = []
        for repo in self.repos.values():
            for commit in repo.commits.values():
                if text in commit.title + commit.message:
                    found.append(f"{repo.id}: message of {commit.oid}")
                found += [f"{repo.id}: {path}" for path, blob in commit.files.items() if text.encode() in blob.content]
        return found

    # ---- one request

    def fault(self, method: str, path: str) -> Fault | None:
        """What happens to the request, and is used up by it."""
        with self.lock:
            matching = (f for f in self.faults if f.times and f.method == method and f.pattern.search(path))
            if (fault := next(matching, None)) is not None:
                fault.times -= 1
            return fault

    def handle(self, request: Request, fault: Fault | None) -> Answer | None:
        """The answer, or None for a connection that closes without one."""
        with self.lock:
            self.requests.append(request)
            if fault is not None:
                if fault.action is not None:
                    fault.action()
                if fault.answer is not None and not fault.after_commit:
                    return fault.answer
            try:
                answer = self.route(request)
            except Refused as refused:
                answer = refused.answer
            if fault is None:
                return answer
            if fault.drop:
                return None
            return replace(fault.answer or answer, **(fault.changes or {}))

    def route(self, request: Request) -> Answer:
        raw = urlsplit(request.path).path
        for old, new in self.renamed.items():
            if re.search(f"(^|/){re.escape(old)}([.]git)?(/|$)", raw):
                return Answer(307, b"", {"Location": request.path.replace(old, new, 1)})
        user = self.user(request)
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", raw):
            return self.put_object(request, match[1])
        if raw == "/api/lfs/verify":
            wanted = request.json()
            known = len(self.lfs.get(wanted["oid"], b"")) == wanted["size"]
            return Answer(200 if known else 404)
        if raw == "/api/whoami-v2":
            self.needs_user(user)
            return Answer(
                body={"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {"type": "access_token"}}
            )
        if raw == "/api/validate-yaml":
            return validate_card(request.json()["content"])
        if raw == "/api/repos/create":
            return self.create_repo(request, user)
        if raw == "/api/repos/delete":
            wanted = request.json()
            repo = self.find(
                KINDS[wanted.get("type") or "model"], f"{wanted['organization'] or user}/{wanted['name']}", user
            )
            self.needs_write(repo, user)
            del self.repos[repo.kind, repo.id]
            return Answer()
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", raw):
            return self.lfs_batch(request, self.find(kind_of(match[1]), match[2], user), user)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw):
            return self.resolve(
                request, self.find(kind_of(match[1]), match[2], user), unquote(match[3]), unquote(match[4])
            )
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+)(?:/(.+))?)?)?", raw):
            repo = self.find(match[1], unquote(match[2]), user)
            first, rest = unquote(match[4] or ""), unquote(match[5] or "")
            return self.repo_route(request, repo, user, match[3] or "", first, rest)
        raise Refused(404, None, f"no such page: {request.method} {raw}")

    def repo_route(self, request: Request, repo: Repo, user: str | None, what: str, first: str, rest: str) -> Answer:
        match request.method, what:
            case "GET", "" | "revision":
                return Answer(body=info_of(repo, repo.at(first or "main"), blobs="blobs" in request.query))
            case "GET", "tree":
                recursive = request.query.get("recursive", [""])[0].lower() in ("1", "true")
                return Answer(body=tree_of(repo.at(first), rest, recursive=recursive, expand=expanded(request)))
            case "POST", "paths-info":
                form = parse_qs(request.body.decode())
                commit = repo.at(first)
                entries = [
                    entry_of(commit, path, expand="true" in form.get("expand", [])) for path in form.get("paths", [])
                ]
                return Answer(body=[entry for entry in entries if entry is not None])
            case "GET", "commits":
                history = [
                    {**c.summary, "message": c.message, "authors": [{"user": c.author}]} for c in repo.history(first)
                ]
                return Answer(body=history)
            case "GET", "refs":
                return Answer(body=refs_of(repo, pulls="include_prs" in request.query))
            case "POST", "preupload":
                self.needs_user(user)
                return Answer(body={"files": [upload_mode(repo.at(first), f) for f in request.json()["files"]]})
            case "POST", "commit":
                return self.post_commit(request, repo, user, first)
            case "POST" | "DELETE", "branch" | "tag":
                self.needs_write(repo, user)
                return change_ref(request, repo, what, first)
            case "PUT", "settings":
                self.needs_write(repo, user)
                wanted = request.json()
                repo.private = wanted.get("private", wanted.get("visibility") == "private")
                return Answer(body={"private": repo.private})
            case "GET", "discussions":
                return Answer(body=pulls_of(repo, request.query))
            case "POST", "discussions" if rest == "merge":
                self.needs_write(repo, user)
                repo.refs["refs/heads/main"] = repo.refs[f"refs/pr/{first}"]
                repo.pulls[int(first)]["status"] = "merged"
                return Answer(body={})
        raise Refused(404, None, f"no such page: {request.method} {request.path}")

    # ---- rights

    def user(self, request: Request) -> str | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        user = self.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refused(401, None, "Invalid credentials in Authorization header")
        return user

    def needs_user(self, user: str | None) -> None:
        if user is None:
            raise Refused(401, None, "Invalid username or password.")

    def needs_write(self, repo: Repo, user: str | None) -> None:
        self.needs_user(user)
        if repo.id.split("/")[0] != user:
            raise Refused(403, None, "You don't have the required permissions to perform this action")

    def find(self, kind: str, repo_id: str, user: str | None) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and repo_id.split("/")[0] != user):
            raise Refused(401 if user is None else 404, "RepoNotFound", "Repository not found")
        return repo

    # ---- the larger answers

    def create_repo(self, request: Request, user: str | None) -> Answer:
        self.needs_user(user)
        wanted = request.json()
        repo_id = f"{wanted.get('organization') or user}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        url = f"{self.endpoint}/{'' if kind == 'model' else 'datasets/'}{repo_id}"
        if repo_id.split("/")[0] != user:
            raise Refused(403, None, f"You don't have the rights to create a {kind} under this namespace")
        if (KINDS[kind], repo_id) in self.repos:
            return Answer(409, {"error": f"You already created this {kind} repo", "url": url})
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.create(repo_id, kind, private=private)
        return Answer(body={"url": url, "name": repo_id})

    def lfs_batch(self, request: Request, repo: Repo, user: str | None) -> Answer:
        self.needs_user(user)
        objects = []
        for wanted in request.json()["objects"]:
            found: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.lfs:
                found["actions"] = {
                    "upload": {"href": f"{self.endpoint}/lfs/{wanted['oid']}"},
                    "verify": {"href": f"{self.endpoint}/api/lfs/verify"},
                }
            objects.append(found)
        return Answer(body={"transfer": "basic", "objects": objects})

    def put_object(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refused(400, None, "the content does not have the announced sha256")
        self.lfs[oid] = request.body
        return Answer()

    def post_commit(self, request: Request, repo: Repo, user: str | None, revision: str) -> Answer:
        create_pr = "create_pr" in request.query
        self.needs_user(user)
        ref = repo.ref(revision)
        if not create_pr and not ref.startswith("refs/pr/"):
            self.needs_write(repo, user)
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent is not None and not create_pr and parent != repo.refs[ref]:
            raise Refused(412, None, "A commit has happened since. Please refresh and try again.")
        files = repo.at(parent or revision).files
        changes: dict[str, Blob | None] = {}
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    changes[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    if value["oid"] not in self.lfs:
                        raise Refused(400, None, f"LFS pointer of {value['path']} points to a file that does not exist")
                    changes[value["path"]] = Blob(self.lfs[value["oid"]], True)
                case "deletedFile":
                    if value["path"] not in files:
                        raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
                    changes[value["path"]] = None
                case "deletedFolder":
                    prefix = value["path"].rstrip("/") + "/"
                    changes |= {path: None for path in files if path.startswith(prefix)}
        pull = None
        if create_pr:
            number = len(repo.pulls) + 1
            repo.pulls[number] = {"title": header["summary"], "status": "open", "author": user}
            parent, ref = repo.at(parent or revision).oid, f"refs/pr/{number}"
            pull = f"{self.url(repo)}/discussions/{number}"
        commit = repo.add(
            ref,
            changes,
            title=header["summary"],
            message=header.get("description", ""),
            author=str(user),
            parent=parent,
        )
        answer = {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{self.url(repo)}/commit/{commit.oid}",
            "hookOutput": "",
        }
        return Answer(body={**answer, "pullRequestUrl": pull} if create_pr else answer)

    def url(self, repo: Repo) -> str:
        return f"{self.endpoint}/{'' if repo.kind == 'models' else 'datasets/'}{repo.id}"

    def resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Answer:
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        blob = commit.files.get(path)
        if blob is None:
            refused = Refused(404, "EntryNotFound", "Entry not found").answer
            refused.headers |= headers
            return refused
        headers |= {"ETag": f'"{blob.etag}"'}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if wanted is None:
            return Answer(200, blob.content, headers)
        size = len(blob.content)
        first = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if first > last:
            return Answer(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
        return Answer(206, blob.content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            fault = server.fault(self.command, self.path)
            if fault is not None and fault.reset_request:
                self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
                self.reset()
                return
            answer = server.handle(Request(self.command, self.path, headers, self.received()), fault)
            if answer is None:
                self.close_connection = True
                return
            threading.Event().wait(answer.delay_s)
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            if not isinstance(answer.body, bytes):
                self.send_header("Content-Type", "application/json; charset=utf-8")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.send(body, answer)
            self.wfile.flush()

        def send(self, body: bytes, answer: Answer) -> None:
            if answer.resets_after is not None:
                self.wfile.write(body[: answer.resets_after])
                self.wfile.flush()
                self.reset()
                return
            for start in range(0, len(body), 1 if answer.byte_s else max(len(body), 1)):
                threading.Event().wait(answer.byte_s)
                self.wfile.write(body[start : start + 1] if answer.byte_s else body)
                self.wfile.flush()

        def reset(self) -> None:
            # Closed without waiting for what is on its way.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()

        def received(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed; `requests` holds it all."""

    return Handler


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running server, and no open connection to it afterwards."""
    from huggingface_hub import close_session

    server = HubServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        close_session()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
