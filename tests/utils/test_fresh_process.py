"""Scripts in fresh processes, which may start before their job is known."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hf_finetune.utils import fresh_process
from hf_finetune.utils.fresh_process import run_in_fresh_process, started_early

SCRIPT = """
import os, sys
from pathlib import Path

if name := sys.argv[1] if len(sys.argv) > 1 else sys.stdin.readline().rstrip("\\n"):
    if "fails" in name:
        raise ValueError("a job\\nthat fails")
    Path(name).write_text(str(os.getpid()))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_the_first_job_has_the_process_that_was_started_early(script: Path, tmp_path: Path) -> None:
    early, later = tmp_path / "early", tmp_path / "the later one"
    with started_early(script):
        child = fresh_process._early[script].pid
        assert run_in_fresh_process(script, early) is None and run_in_fresh_process(script, later) is None
    assert early.read_text() == str(child) and later.read_text() not in (str(child), str(os.getpid()))
    assert run_in_fresh_process(script, early) is None and early.read_text() != str(child)


def test_the_end_of_an_error_is_returned(script: Path, tmp_path: Path) -> None:
    assert run_in_fresh_process(script, tmp_path / "fails") == "that fails"
    with started_early(script):
        assert run_in_fresh_process(script, tmp_path / "fails") == "that fails"


def test_a_process_that_has_ended_before_its_job_is_an_error(script: Path, tmp_path: Path) -> None:
    script.write_text("raise SystemExit(3)")
    with started_early(script):
        fresh_process._early[script].wait()
        assert run_in_fresh_process(script, tmp_path / "job") == "no output"


def test_without_a_job_it_ends_with_the_block(script: Path) -> None:
    with pytest.raises(KeyError), started_early(script):
        child = fresh_process._early[script]
        assert child.poll() is None
        raise KeyError
    assert child.returncode == -signal.SIGKILL and not fresh_process._early
    with started_early(None):
        assert not fresh_process._early


def test_it_does_not_outlive_a_process_that_is_killed(script: Path) -> None:
    code = f"""
from pathlib import Path
from hf_finetune.utils import fresh_process

script = Path({str(script)!r})
with fresh_process.started_early(script):
    print(fresh_process._early[script].pid, flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=30)
