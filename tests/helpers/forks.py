"""Processes that are forked from one that has imported the package and its libraries.

A fresh interpreter spends longer on importing torch and transformers than most tests of whole processes spend on what
they are about. A parent waits with that done, one for each way that the Hub's variables are set (they are read at
import), and forks. Its children are processes of their own in all that the tests look at: memory, ranks, signals, exit
status. What only a fresh interpreter shows starts one: the gate, the launchers, what a light command imports."""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

# Far beyond what a busy machine needs: it ends processes that hang, and judges no speed.
HANG_S = 1800
# The command line, as `python -m hf_finetune`.
COMMAND = "import sys; from hf_finetune.cli.main import main_command; main_command(sys.argv[1:])"
# The same, with the gate's script in the same process (see `conftest.gate_here`): for tests of other things than the
# gate.
COMMAND_WITHOUT_GATE = f"from helpers import gate; gate.run_here(); {COMMAND}"


class Parent:
    """The process that has imported everything, and forks when it is asked to."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        atexit.register(self._process.communicate)

    def ask(self, **what: Any) -> Any:
        """One request and its answer, each a line of JSON."""
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@cache
def parent(read_at_import: tuple[tuple[str, str], ...]) -> Parent:
    """The parent whose environment has these variables of Hugging Face."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return Parent(others | dict(read_at_import) | {"OMP_NUM_THREADS": "1"})


class Child:
    """A process that runs `code` with `arguments` as sys.argv[1:], its output in two files.

    Args:
        environment: of the process, whole.
    """

    def __init__(
        self, code: str, *arguments: str | Path, environment: dict[str, str], cwd: Path, stdout: Path, stderr: Path
    ) -> None:
        hub = {n: v for n, v in environment.items() if n.startswith("HF_") and n != "HF_FINETUNE_CACHE"}
        self._parent = parent(tuple(sorted(hub.items())))
        what = {"code": code, "arguments": [str(a) for a in arguments], "environment": environment, "cwd": str(cwd)}
        self.pid: int = self._parent.ask(**what, stdout=str(stdout), stderr=str(stderr))
        self.returncode: int | None = None

    def wait(self) -> int:
        """The exit status, negative for a signal's number.

        Raises:
            TimeoutError: it hangs.
        """
        until = time.monotonic() + HANG_S
        while self.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"not done after {HANG_S} s")
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def poll(self) -> int | None:
        """The exit status; None: it runs."""
        if self.returncode is None:
            self.returncode = self._parent.ask(wait=self.pid)
        return self.returncode

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def run(
    code: str, *arguments: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """`code` in a process of its own, to its end."""
    with tempfile.TemporaryDirectory() as name:
        said, complaint = Path(name) / "stdout", Path(name) / "stderr"
        where = {"environment": dict(environment or os.environ), "cwd": cwd or Path.cwd()}
        child = Child(code, *arguments, **where, stdout=said, stderr=complaint)
        try:
            child.wait()
        finally:
            child.kill()
        return subprocess.CompletedProcess(arguments, child.returncode, said.read_text(), complaint.read_text())


def _next_child() -> dict[str, Any]:
    """Serve requests until the tests end; returns in the children alone, with what each is to do."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            pid, status = os.waitpid(asked["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            return asked
        print(json.dumps(answer), flush=True)
    sys.exit()


def _become(asked: dict[str, Any]) -> None:
    """Let this process look as if it had been started for what is asked."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    for number, path in enumerate((os.devnull, asked["stdout"], asked["stderr"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv = ["-c", *asked["arguments"]]


if __name__ == "__main__":
    # The helpers are found by `helpers.<name>`, as under pytest.
    sys.path[0] = str(Path(__file__).parent.parent)
    import torch
    from helpers import flop_counts

    import hf_finetune.cli.main
    import hf_finetune.pipeline.run  # noqa: F401
    from hf_finetune.training import flops

    flop_counts.count_once()
    os.fsync = lambda _: None  # as in `conftest`
    # Measured once, and not again by each child that trains.
    flops.gemm_peak(torch.float32, torch.device("cpu"))
    # What is there now is never collected: a child that went through it would copy its pages.
    gc.collect()
    gc.freeze()
    child = _next_child()
    _become(child)
    exec(compile(child["code"], "<string>", "exec"), {"__name__": "__main__"})
