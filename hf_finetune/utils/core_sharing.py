"""Threads of a parallel computation that wait for each other keep their core only while no other program needs it.

GNU's OpenMP, with which torch is built on Linux, lets a thread that has finished its part of a computation spin for
milliseconds before it sleeps. With all cores to itself a run is fastest like that. Beside another program, the spinning
thread keeps the core from the one that it waits for, and two runs on the same cores all but stop. `OMP_WAIT_POLICY` is
read once, when OpenMP is loaded, but a thread sleeps almost at once while the process has more OpenMP threads than
cores (GCC's manual, GOMP_SPINCOUNT). So while other programs are busy, this module adds threads that do nothing.
The number of threads that compute stays the same, and with it every bit of the result.
"""

import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

logger = logging.getLogger("hf_finetune")

SECONDS = 1.0
"""Between two measurements of what other programs use."""
MARGIN = 0.05
"""Share of the cores that other programs may use beyond the free ones before threads sleep instead of spin."""
SECONDS_UNTIL_NOTE = 20.0


def available_cores() -> int:
    """Return the cores that this process may use: those of its affinity, within the limits of its cgroup."""
    import joblib

    return joblib.cpu_count()


class _Sharing:
    """What this process does about other programs; one thread measures, however many blocks are open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.ended = threading.Event()

    def start(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.ended = threading.Event()
                threading.Thread(target=_watch, args=(self.ended,), name="core sharing", daemon=True).start()

    def stop(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.ended.set()


_sharing = _Sharing()


@contextmanager
def shared_cores() -> Iterator[None]:
    """Compute with at most the available cores in the block, and let waiting threads sleep while others use them.

    Blocks may be nested. The number of threads is not changed where `OMP_NUM_THREADS` is set, and how they wait is not
    where `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` is set or torch computes with another OpenMP than GNU's.
    """
    with ExitStack() as stack:
        if "OMP_NUM_THREADS" not in os.environ:
            stack.enter_context(_at_most_threads(available_cores()))
        if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() and _libgomp() is not None:
            stack.callback(_sharing.stop)
            _sharing.start()
        yield


@contextmanager
def blas_on_one_core() -> Iterator[None]:
    """Let NumPy and SciPy compute on one core in the block.

    For the small products of a logistic regression, OpenBLAS's threads wait for each other, and for those of torch, far
    longer than they compute: on two cores the fits of a head to 616 rows of 77 classes took 3.8 s, and .4 to .8 on one.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache  # It looks through all loaded libraries, of which those of scikit-learn are loaded by then.
def _blas() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def _at_most_threads(most: int) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    if threads <= most:  # setting the same number would change how MKL chooses its own
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _watch(ended: threading.Event) -> None:
    """Measure what other programs use until `ended`, and let threads sleep accordingly."""
    import torch

    load, busy_since, noted = OtherPrograms(), None, False
    cores = len(load.cores)
    with ExitStack() as idle:
        while not ended.wait(SECONDS):
            threads, used = torch.get_num_threads(), load.cores_used()
            busy = threads > 1 and used - max(0, cores - threads) > MARGIN * cores
            if busy and busy_since is None:
                idle.enter_context(idle_threads())
                busy_since = time.monotonic()
            elif not busy and busy_since is not None:
                idle.close()
                busy_since = None
            if busy_since is not None and not noted and time.monotonic() - busy_since > SECONDS_UNTIL_NOTE:
                noted = True
                logger.info(
                    "other programs use %.1f of the %d cores, so that this one takes longer; end them, or give them "
                    "other cores (taskset)",
                    used,
                    cores,
                )


class OtherPrograms:
    """Measures the cores that other programs use, among those on which this process may run."""

    def __init__(self) -> None:
        self.cores = sorted(os.sched_getaffinity(0))
        self.before = self._read()

    def cores_used(self) -> float:
        """Return the mean number of cores that other programs used since the last call."""
        before, self.before = self.before, self._read()
        seconds, busy, own = (now - then for now, then in zip(self.before, before, strict=True))
        return max(0.0, (busy - own) / seconds)

    def _read(self) -> tuple[float, float, float]:
        """Return the time, and the seconds of processor time of all programs and of this process."""
        import psutil

        times = psutil.cpu_times(percpu=True)
        busy = sum(t.user + t.nice + t.system + t.irq + t.softirq for t in (times[core] for core in self.cores))
        return time.monotonic(), busy, time.process_time()


@contextmanager
def idle_threads() -> Iterator[None]:
    """Add a team of OpenMP threads that do nothing, one more than there are cores."""
    openmp, ready, ended = _libgomp(), threading.Event(), threading.Event()
    assert openmp is not None

    def own_team() -> None:
        # GOMP_parallel is what a compiler makes of `#pragma omp parallel`; the team computes its process id once, and
        # exists until the thread that started it ends.
        openmp.GOMP_parallel(ctypes.CDLL(None).getpid, None, len(os.sched_getaffinity(0)) + 1, 0)
        ready.set()
        ended.wait()

    thread = threading.Thread(target=own_team, name="idle OpenMP threads", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _libgomp() -> ctypes.CDLL | None:
    """Return the OpenMP library that torch has loaded, or None if it is not GNU's.

    Other packages may bring copies of their own.
    """
    if not sys.platform.startswith("linux"):
        return None
    import torch

    folder = Path(torch.__file__).parent
    mapped = {Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
    own = [path for path in mapped if folder in path.parents or path.parent.name == "torch.libs"]
    system = [path for path in mapped if not path.parent.name.endswith(".libs")]
    return ctypes.CDLL(str((own or system)[0])) if own or system else None
