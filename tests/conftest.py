"""Every test runs without a network: only the loopback interface may be reached."""

import atexit
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator

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

# A shell in the background ignores SIGINT, nohup ignores SIGHUP: here, and in the processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# No test cuts the power. `test_crashes` watches what is synced, in processes of its own.
os.fsync = lambda _: None
atexit.register(shutil.rmtree, os.environ["HF_FINETUNE_CACHE"], ignore_errors=True)

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_collection_finish() -> None:
    """What the modules have imported is never collected, and operations are counted once for each structure: each run
    on a tiny checkpoint would take longer for either than it trains."""
    if "hf_finetune.training.flops" in sys.modules:
        from helpers import flop_counts

        flop_counts.count_once()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine, by name."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise OSError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def log_levels_restored() -> Iterator[None]:
    """A function of a command, called by itself, leaves the levels that `main_command` would restore."""
    loggers = [logging.getLogger(name) for name in ("hf_finetune", "hf_finetune.run")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def gate_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's own script, run in this process. For tests of other things than the gate."""
    from helpers import gate

    gate.run_here(monkeypatch.setattr)
