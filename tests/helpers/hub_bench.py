"""A run to push and a loopback Hub to push it to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from helpers.hub_server import HubServer

from hf_finetune import Hub
from hf_finetune.hub.push import Pushed, push

REPO = "tester/movie"
SENT = {
    "README.md",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "config.json",
    "model.safetensors",
    "recipe.json",
    "result.json",
    "tokenizer.json",
}
"""Files of a pushed run."""
COMMIT = r"/commit/main(\?|$)"
"""Path of the request that makes a commit."""
OURS, FIRST = "Run of hf_finetune", "initial commit"
"""Titles of commits."""


@dataclass
class Bench:
    """A server, a run to push, and the waits between attempts."""

    server: HubServer
    run: Path
    sleeps: list[float] = field(default_factory=list)

    def push(self, repo_id: str = REPO, **options) -> Pushed:
        check, include_predictions = options.pop("check", None), options.pop("include_predictions", False)
        target = Hub(repo_id=repo_id, **options)
        return push(
            self.run, target, include_predictions=include_predictions, endpoint=self.server.endpoint, check=check
        )

    def titles(self, revision: str = "main", repo_id: str = REPO) -> list[str]:
        return [commit.title.split(" (")[0] for commit in self.server.repo(repo_id).history(revision)]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        files = self.server.repo(REPO).at(revision).files
        return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}
