"""Scripts of plain libraries in fresh processes, which may start before their job is known: their imports take seconds,
beside which this process can import its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_early: dict[Path, subprocess.Popen[str]] = {}


@contextmanager
def started_early(script: Path | None) -> Iterator[None]:
    """Let a process import the libraries of a script in the block, for the first job of it. None: no script.

    Such a script reads the path of its job from its input where it has no argument. The process is ended with the block
    if there was no job, and ends with this one, which closes its input.
    """
    if script is None:
        yield
        return
    # A session of its own: ctrl-C is this process's to handle, which may have a job then.
    _early[script] = subprocess.Popen(
        _command(script),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield
    finally:
        if (child := _early.pop(script, None)) is not None:
            with child:
                child.kill()


def run_in_fresh_process(script: Path, job: Path) -> str | None:
    """Run a script on a job in a new process, or in the one that was started early.

    Returns:
        The last line of its error. None: success.
    """
    child = _early.pop(script, None)
    if child is None:
        ended = subprocess.run([*_command(script), str(job)], capture_output=True, text=True)
        error, status = ended.stderr, ended.returncode
    else:
        with child:
            try:
                _, error = child.communicate(f"{job}\n")
            except BaseException:
                child.kill()
                raise
        status = child.returncode
    return None if status == 0 else (error.strip().splitlines()[-1:] or ["no output"])[0]


def _command(script: Path) -> list[str]:
    # -P keeps the script's folder, a part of this package, out of sys.path.
    return [sys.executable, "-P", str(script)]
