"""The pages of tasks: their commands and their Python end with status 0, and print the words that the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import forks
from helpers.task_pages import INDEX, NAMES


@pytest.mark.parametrize("page", [*NAMES, INDEX])
def test_a_page(hub_environment: dict[str, str], tmp_path: Path, page: str) -> None:
    environment = hub_environment | {"HF_FINETUNE_CACHE": str(tmp_path / "cache")}
    code = f"from helpers import task_pages; task_pages.run_page({page!r})"
    ended = forks.run(code, environment=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
