from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub_bench import Bench
from helpers.hub_run import write_run
from helpers.hub_server import hub_server
from huggingface_hub.utils import _http

from hf_finetune.hub import retry


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    with hub_server() as server:
        server.connect(monkeypatch, tmp_path / "home")
        # huggingface_hub's own waits, between the retries of a preupload or an upload.
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        bench = Bench(server, write_run(tmp_path / "run"))
        monkeypatch.setattr(retry, "sleep", bench.sleeps.append)
        yield bench
