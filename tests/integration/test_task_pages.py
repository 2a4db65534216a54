"""The pages of tasks: their commands and their Python end with status 0, and print the words that the pages show."""

from __future__ import annotations

from pathlib import Path

from helpers import forks


def test_pages_of_tasks(hub_environment: dict[str, str], tmp_path: Path) -> None:
    environment = hub_environment | {"HF_FINETUNE_CACHE": str(tmp_path / "cache")}
    ended = forks.run("from helpers import task_pages; task_pages.run_pages()", environment=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
