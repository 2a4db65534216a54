"""Every test runs without a network: only the loopback interface may be reached."""

import atexit
import os
import shutil
import signal
import socket
import tempfile
import warnings
from pathlib import Path

# Before anything of Hugging Face is imported: its settings are read once, at import.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Workers share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What earlier runs on this machine have left must not decide a test.
os.environ["HF_FINETUNE_CACHE"] = tempfile.mkdtemp(prefix="hf_finetune_tests_")

import pytest

# A shell that starts the tests in the background has SIGINT ignored, in these processes and in those that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["HF_FINETUNE_CACHE"], ignore_errors=True)

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine, by name."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise OSError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def gate_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's own script, run in this process: the same loading by plain transformers, without the seconds that a new
    interpreter needs to import them. For tests of other things than the gate.
    """
    import torch
    from transformers.utils import logging

    from hf_finetune import parity, parity_child

    def here(job: Path) -> None:
        threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
        bars = logging.is_progress_bar_enabled()
        with torch.random.fork_rng(devices=[]), parity.exact_float32(), warnings.catch_warnings():
            # What plain peft warns of is an error here alone.
            warnings.simplefilter("ignore")
            parity_child.main(job)
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

    monkeypatch.setattr(parity, "in_fresh_process", here)
