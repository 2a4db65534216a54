"""Scripts of plain libraries in fresh processes, beside which this one goes on.

They may start before their job is known: their imports take seconds, beside which this process can import its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    _early[script] = _start(script, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        if (child := _early.pop(script, None)) is not None:
            with child:
                child.kill()


@contextmanager
def in_fresh_process(script: Path, job: Path) -> Iterator[Callable[[], str | None]]:
    """Run a script on a job beside the block, in a new process or in the one that was started early.

    Yields:
        Waits for its end, and returns the last line of its error; None: success. A process for which nothing waited is
        ended with the block.
    """
    child = _early.pop(script, None)
    if child is None:
        child = _start(script, str(job), stdin=subprocess.DEVNULL)
    else:
        assert child.stdin is not None, "see `started_early`"
        # One that has ended is an error when it is waited for.
        with suppress(BrokenPipeError), child.stdin as answer:
            answer.write(f"{job}\n")
        child.stdin = None  # `communicate` would write to it

    def end() -> str | None:
        _, error = child.communicate()
        return None if child.returncode == 0 else (error.strip().splitlines()[-1:] or ["no output"])[0]

    with child:
        try:
            yield end
        finally:
            child.kill()


def _start(script: Path, *arguments: str, stdin: int, start_new_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # -P keeps the script's folder, a part of this package, out of sys.path.
        [sys.executable, "-P", str(script), *arguments],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
        # Its threads would spin for the cores that this process uses, see `core_sharing`.
        env={"OMP_WAIT_POLICY": "passive", **os.environ},
    )
