"""`hf-finetune serve` as a process: many clients, wrong bodies, signals, workers, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from helpers import gate
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import Classifier, train

CLIENTS = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    rows = text_rows(60)
    table = {"text": rows["text"][:], "label": [("bad", "good")[i] for i in rows["label"]]}
    with pytest.MonkeyPatch.context() as patch:
        gate.run_here(patch.setattr)
        checkpoint = str(tiny_text_checkpoint(folder / "checkpoint"))
        train(
            table,
            model=checkpoint,
            max_length=32,
            epochs=1,
            output=folder / "run",
            evaluate={"baselines": False, "plots": False},
        )
    return folder / "run"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(run: Path, *flags: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """Serve a run in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "hf_finetune", "serve", str(run), "--port", str(port), *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        ends = time.time() + 120
        while True:
            with suppress(OSError):
                if call(port, "GET", "/health")[0] == 200:
                    break
            assert server.poll() is None and time.time() < ends, server.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.1)
        yield port, server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def call(port: int, method: str, path: str, body: Any = None, timeout: float = 60) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, content)
        answer = connection.getresponse()
        text = answer.read().decode()
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.status, json.loads(text) if is_json else text
    finally:
        connection.close()


def test_clients_bodies_and_the_end(run: Path) -> None:
    texts = [f"a {word} film {i}" for i in range(CLIENTS) for word in (("good", "bad")[i % 2],)]
    expected = Classifier.load(run).predict(texts).tolist()
    flags = ("--max-body", "20000", "--max-rows", "20", "--body-timeout", "1")
    with serving(run, *flags) as (port, server):
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = [*clients.map(lambda text: call(port, "POST", "/predict", {"inputs": text}), texts)]
        assert [status for status, _ in answers] == [200] * CLIENTS, "none is lost"
        assert [content["predictions"][0]["predicted"] for _, content in answers] == expected
        metrics = call(port, "GET", "/metrics")[1]
        batches = float(re.search(r"hf_finetune_batch_rows_count (\S+)", metrics)[1])  # type: ignore[index]
        assert f"hf_finetune_rows_total {CLIENTS}.0" in metrics and batches < CLIENTS, "requests are gathered"

        for body, status, message in (
            (b"", 400, "expected JSON"),
            (b"[1", 400, "expected JSON"),
            ({"inputs": []}, 422, "at least one"),
            ({"inputs": ["a", " "]}, 422, "row 1"),
            ({"inputs": [1]}, 422, "expected texts"),
            ({"inputs": ["a"] * 21}, 413, "at most 20 rows"),
            ({"inputs": "a" * 30_000}, 413, "at most 20,000 bytes"),
            (b"a" * 300_000, 413, "at most 20,000 bytes"),
        ):
            found, content = call(port, "POST", "/predict", body)
            assert found == status and message in content["error"], (body, content)
        with ExitStack() as opened:
            slow = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)]
            for each in slow:
                each.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            assert call(port, "POST", "/predict", {"inputs": texts[0]})[0] == 200, "others are answered meanwhile"
            assert all(each.recv(100).startswith(b"HTTP/1.1 408") for each in slow)
        described = call(port, "GET", "/openapi.json")[1]
        assert "/predict" in described["paths"] and call(port, "GET", "/health")[1]["labels"]
        assert_page_predicts(port)

        # Those that were taken are answered.
        with ThreadPoolExecutor(20) as clients:
            last = [clients.submit(call, port, "POST", "/predict", {"inputs": texts[:20]}) for _ in range(20)]
            time.sleep(0.05)
            server.send_signal(signal.SIGTERM)
        done = [each.result() for each in last if each.exception() is None]
        assert done and all(status == 200 for status, _ in done)
        server.communicate(timeout=30)


def assert_page_predicts(port: int) -> None:
    """Open the page in a browser, where there is one."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return
    # The form is sent by the address, as this browser takes no clicks from a command line.
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    page = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/?text=a+good+film"], capture_output=True, text=True, timeout=120
    )
    assert 'class="bar"' in page.stdout and "alert" in page.stdout, page.stderr[-500:]


def test_a_worker_that_dies(run: Path) -> None:
    with serving(run, "--workers", "2") as (port, server):
        children = _workers(server.pid)
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        with ThreadPoolExecutor(16) as clients:
            found = [clients.submit(call, port, "POST", "/predict", {"inputs": "a good film"}) for _ in range(64)]
        statuses = [each.result()[0] for each in found if each.exception() is None]
        assert statuses.count(200) == len(statuses) and len(statuses) >= 32
        ends = time.time() + 60
        while len(_workers(server.pid)) < 2:
            assert time.time() < ends, "no new worker"
            time.sleep(0.2)
        assert call(port, "POST", "/predict", {"inputs": "a good film"})[0] == 200


def _workers(pid: int) -> list[int]:
    """Processes of a server that listen: children that are no trackers of multiprocessing."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    is_worker = [b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    return [int(child) for child, worker in zip(children, is_worker, strict=True) if worker]
