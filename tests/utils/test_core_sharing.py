"""Threads that wait sleep while other programs use the cores; what they compute stays the same."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hf_finetune.utils.core_sharing import OtherPrograms, available_cores, blas_on_one_core

two_cores = pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)
BUSY = "while True: pass"
# Processor seconds of two threads for 40 short sums, with a pause after each: threads that spin use them up.
PAUSES = """
import time, torch
from hf_finetune.utils.core_sharing import idle_threads
torch.set_num_threads(2)
values = torch.ones(1 << 18)

def used():
    values.sum()
    before = time.process_time()
    for _ in range(40):
        values.sum()
        time.sleep(0.01)
    return time.process_time() - before

spinning = used()
with idle_threads():
    sleeping = used()
print(spinning, sleeping, used())
"""
WATCHED = """
import logging, subprocess, sys, threading, time, torch
from hf_finetune.utils import core_sharing
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
core_sharing.SECONDS, core_sharing.SECONDS_UNTIL_NOTE = 0.2, 0.3
torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
weights = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))

def shares():
    return any(thread.name == "idle OpenMP threads" for thread in threading.enumerate())

def wait(expected):
    end = time.monotonic() + 30
    while shares() != expected and time.monotonic() < end:
        time.sleep(0.05)
    return shares(), torch.get_num_threads(), (weights @ weights).sum().item()

with core_sharing.shared_cores():
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    with core_sharing.shared_cores():
        print(*wait(True))
        time.sleep(1)
    for process in others:
        process.kill()
        process.wait()
print(*wait(False))
"""


def run(script: str, *arguments: str, **variables: str) -> list[list[str]]:
    """Run a script in a process whose OpenMP has its own defaults; return the words of each line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    root = str(Path(__file__).parents[2])
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**environment, "PYTHONPATH": root, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in process.stdout.splitlines()]


@two_cores
def test_threads_sleep_beside_idle_threads_and_spin_again_after() -> None:
    spinning, sleeping, again = map(float, run(PAUSES)[0])
    assert sleeping < spinning / 2
    assert sleeping < again / 2


@two_cores
def test_other_programs_are_noticed_and_change_no_bit() -> None:
    beside, *note, after = run(WATCHED)
    assert beside[0] == "True"
    assert after[0] == "False"
    assert beside[1:] == after[1:]
    assert [" ".join(line[:3]) for line in note] == ["other programs use"]  # said once


def test_nothing_is_done_where_the_user_has_chosen() -> None:
    script = WATCHED.replace("+ 30", "+ 0.7")
    assert [line[0] for line in run(script, OMP_WAIT_POLICY="active")] == ["False"] * 2


@two_cores
def test_a_busy_process_is_measured() -> None:
    load = OtherPrograms()
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        load.cores_used()
        process_seconds = 0.0
        while process_seconds < 0.5:
            process_seconds = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
        cores = load.cores_used()
        process.kill()
    assert cores > 0.25


def test_threads_are_limited_to_the_available_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import torch
from hf_finetune.utils.core_sharing import shared_cores
torch.set_num_threads(3)
with shared_cores():
    print(torch.get_num_threads())
print(torch.get_num_threads())
"""
    assert run(script, LOKY_MAX_CPU_COUNT="1") == [["1"], ["3"]]
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert available_cores() == 1


def test_blas_computes_on_one_core_in_the_block() -> None:
    import sklearn.linear_model  # noqa: F401, it brings a BLAS
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with blas_on_one_core():
            assert threads() == [1] * len(before)
        # Where there is one core, a BLAS may have no second thread.
        assert threads() == before and before
