"""The protocol of the Hub: who may do what, and the answer to each request, from repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import string
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.hub_store import (
    KINDS,
    LFS_SUFFIXES,
    PREFIXES,
    Answer,
    Blob,
    Refused,
    Repo,
    Request,
    change_ref,
    entry_of,
    expanded,
    info_of,
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


class HubRoutes:
    """The Hub's state and its routes."""

    def __init__(self) -> None:
        self.token = new_token()
        self.users = {self.token: "tester"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.renamed: dict[str, str] = {}
        self.endpoint = ""

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
        if match := re.fullmatch(r"/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", raw):
            return self.lfs_batch(request, self.find(kind_of(match[1]), match[2], user), user)
        if match := re.fullmatch(r"/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw):
            return self.resolve(
                request, self.find(kind_of(match[1]), match[2], user), unquote(match[3]), unquote(match[4])
            )
        if match := re.fullmatch(
            r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+)(?:/(.+))?)?)?", raw
        ):
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

    def create(self, repo_id: str, kind: str = "model", *, private: bool = False) -> Repo:
        """A new repository with the Hub's own first commit."""
        repo = Repo(KINDS[kind], repo_id, private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.add("refs/heads/main", {".gitattributes": Blob(attributes.encode(), False)}, title="initial commit")
        self.repos[repo.kind, repo_id] = repo
        return repo

    def create_repo(self, request: Request, user: str | None) -> Answer:
        self.needs_user(user)
        wanted = request.json()
        repo_id = f"{wanted.get('organization') or user}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        url = f"{self.endpoint}/{PREFIXES[KINDS[kind]]}{repo_id}"
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
        return f"{self.endpoint}/{PREFIXES[repo.kind]}{repo.id}"

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
