"""A Hub on the loopback interface for tests: real HTTP, spoken to by the real huggingface_hub, kept in memory.

    with hub_server() as server:
        HfApi(endpoint=server.endpoint, token=server.token).create_repo("tester/model")
        subprocess.run([...], env={**os.environ, **server.environment(tmp_path)})

Repositories have commits with parents, branches, tags and pull requests; files are stored by content, large ones
through the LFS protocol. Writes need the token of a user who owns the namespace. `fail`, `drop_answer`, `intervene`,
`reset_request`, `reset_answer` and `delay` disturb chosen requests; `requests` holds everything that was received."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.hub_faults import Fault, Faults
from helpers.hub_http import QuietServer, handler_of
from helpers.hub_routes import HubRoutes
from helpers.hub_store import KINDS, Answer, Blob, Refused, Repo, Request, is_lfs


class HubServer(HubRoutes, Faults):
    """A Hub that answers, and the helpers that tests use to fill it."""

    def __init__(self) -> None:
        HubRoutes.__init__(self)
        Faults.__init__(self)
        self.requests: list[Request] = []
        self.http = QuietServer(("127.0.0.1", 0), handler_of(self))
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"

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

    def rename(self, repo_id: str, new: str) -> None:
        """Rename a model; its old name redirects to the new one."""
        repo = self.repos.pop((KINDS["model"], repo_id))
        repo.id = new
        self.repos[repo.kind, new] = repo
        self.renamed[repo_id] = new

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        """The repository, for assertions."""
        return self.repos[KINDS[kind], repo_id]

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
