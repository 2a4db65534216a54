"""The environment of a run: versions, hardware, time, memory and the cache folder."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "evaluate",
    "huggingface_hub",
    "tokenizers",
)

_started: ContextVar[float | None] = ContextVar("start of the run", default=None)


def versions() -> dict[str, str]:
    """Return the installed versions of Python, this package and the libraries that affect a result."""
    return dict(_versions())


@cache  # Each is parsed from a file of its package, as long as a page.
def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version(), "hf_finetune": version("hf_finetune")}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def requirement(*extras: str) -> str:
    """Return this version of the package with extras, as pip reads it."""
    marks = f"[{','.join(extras)}]" if extras else ""
    return f"hf_finetune{marks}=={version('hf_finetune')}"


def package_commit() -> str | None:
    """Return the git commit of this package, or None if it does not run from a checkout."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:  # git is not installed
        return None
    return git.stdout.strip() or None if git.returncode == 0 else None


def hardware(device: Any, processes: int) -> dict[str, Any]:
    """Describe the processor, memory, GPU and number of processes; `device` is a torch.device."""
    import torch

    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device.type,
        "processes": processes,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def memory(device: Any) -> dict[str, float]:
    """Return the peak memory of this process so far, in megabytes (10^6 bytes)."""
    import torch

    # Linux counts kilobytes here, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)}
    if device.type == "cuda":
        peaks["peak_device_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks


@contextmanager
def started_now() -> Iterator[None]:
    """Let `seconds_since_start` count from here in the block: in a notebook, the process is older than its run."""
    token = _started.set(time.time())
    try:
        yield
    finally:
        _started.reset(token)


def seconds_since_start() -> float:
    """Return the wall-clock time since `started_now`, else since this process started, imports included."""
    started = _started.get()
    return time.time() - (psutil.Process().create_time() if started is None else started)


def cache_folder() -> Path:
    """Return the folder of the disk cache, which need not exist.

    It is `HF_FINETUNE_CACHE`, else `$XDG_CACHE_HOME/hf_finetune`, else `~/.cache/hf_finetune`.
    """
    configured = os.environ.get("HF_FINETUNE_CACHE")
    if configured:
        return Path(configured).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home).expanduser().absolute() if home else Path.home() / ".cache") / "hf_finetune"
