"""A script in two real processes that find each other over gloo."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from helpers.forks import HANG_S, Child
from torch.distributed import TCPStore


def run_in_two_processes(
    script: str, *arguments: str | Path, folder: Path, statuses: tuple[int, int] = (0, 0)
) -> list[str]:
    """Run `script` as rank 0 and rank 1 of two; what each wrote to stdout. Their output lies in `folder` meanwhile.

    The meeting point is a store of this process, on a port that it holds from the start: a port that was only looked
    up could be somebody else's by the time rank 0 opens it.

    Raises:
        AssertionError: when the processes did not end with these statuses, with the ends of their stderr.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=HANG_S))
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        # What torchrun says to its workers: the store is there already.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    quietly = "import warnings; warnings.simplefilter('ignore')\n"
    workers: list[Child] = []
    try:
        for rank in ("0", "1"):
            files = {"stdout": folder / f"stdout-{rank}", "stderr": folder / f"stderr-{rank}"}
            environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
            workers.append(Child(quietly + script, *arguments, environment=environment, cwd=Path.cwd(), **files))
        found = tuple(worker.wait() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    complaints = [(folder / f"stderr-{rank}").read_text()[-3000:] for rank in range(2)]
    assert found == statuses, "\n".join(complaints)
    return [(folder / f"stdout-{rank}").read_text() for rank in range(2)]
