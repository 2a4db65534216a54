"""Scripts in fresh processes, which may start before their job is known."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hf_finetune.utils import fresh_process
from hf_finetune.utils.fresh_process import in_fresh_process, started_early

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


def _ended(script: Path, job: Path) -> str | None:
    with in_fresh_process(script, job) as end:
        return end()


def test_the_first_job_has_the_process_that_was_started_early(script: Path, tmp_path: Path) -> None:
    early, later = tmp_path / "early", tmp_path / "the later one"
    with started_early(script):
        child = fresh_process._early[script].pid
        assert _ended(script, early) is None and _ended(script, later) is None
    assert early.read_text() == str(child) and later.read_text() not in (str(child), str(os.getpid()))
    assert _ended(script, early) is None and early.read_text() != str(child)


def test_the_end_of_an_error_is_returned(script: Path, tmp_path: Path) -> None:
    assert _ended(script, tmp_path / "fails") == "that fails"
    with started_early(script):
        assert _ended(script, tmp_path / "fails") == "that fails"


def test_a_process_that_has_ended_before_its_job_is_an_error(script: Path, tmp_path: Path) -> None:
    script.write_text("raise SystemExit(3)")
    with started_early(script):
        fresh_process._early[script].wait()
        assert _ended(script, tmp_path / "job") == "no output"


@pytest.mark.parametrize(("own", "expected"), [(None, "passive"), ("active", "active")])
def test_its_threads_sleep_where_they_wait(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, expected: str
) -> None:
    """They would take the core from the one that they wait for, as this process computes beside it."""
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nPath(sys.argv[1]).write_text(os.environ['OMP_WAIT_POLICY'])"
    )
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    assert _ended(script, tmp_path / "job") is None and (tmp_path / "job").read_text() == expected


@pytest.mark.parametrize("is_early", [False, True])
def test_it_runs_beside_the_block_and_ends_with_it(script: Path, tmp_path: Path, is_early: bool) -> None:
    job = tmp_path / "job"
    script.write_text(SCRIPT + "import time\ntime.sleep(60)")
    with started_early(script if is_early else None), pytest.raises(KeyError), in_fresh_process(script, job):
        deadline = time.monotonic() + 30
        while (not job.exists() or not job.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        child = psutil.Process(int(job.read_text()))
        raise KeyError
    assert not child.is_running()


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
