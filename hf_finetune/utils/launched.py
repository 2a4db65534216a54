"""The processes of a launched run: they end with their launcher, and some runs cannot have several."""

import os
import signal
import threading
import time

from hf_finetune.errors import InputError

LAUNCHER = "HF_FINETUNE_LAUNCHER"
"""Variable with the process id of our launcher, for the processes that it starts."""


def end_with_launcher() -> None:
    """Send this process SIGTERM when the launcher that has started it dies, even by SIGKILL.

    Nothing is done in a process that neither our launcher nor Accelerate or torchrun has started. Linux's own signal
    for this (PR_SET_PDEATHSIG) is not used: it comes for each thread of the launcher that ends, and a second signal
    ends training without a checkpoint.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = int(os.environ.get(LAUNCHER, os.getppid()))
        threading.Thread(target=_watch, args=(launcher,), name="launcher", daemon=True).start()


def _runs(launcher: int) -> bool:
    """Whether the process is there. It need not be the parent: the variable may come from a launcher further up."""
    import psutil

    try:
        return psutil.Process(launcher).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _watch(launcher: int, seconds: float = 1.0) -> None:
    """Wait until the launcher has died; then send the signal."""
    while _runs(launcher):
        time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGTERM)


def refuse_processes(what: str, requested: int | None) -> None:
    """Refuse several processes, whether they are requested or a launcher has started this one among them.

    Args:
        what: the option that needs a single process, for the message.

    Raises:
        InputError: there are several.
    """
    processes = max(requested or 1, int(os.environ.get("WORLD_SIZE", "1")))
    if processes > 1:
        raise InputError(f"--num-processes {processes}: expected 1 with {what}")
