"""What a run ran on: versions, hardware, processes, time and memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "huggingface_hub", "tokenizers")


def versions() -> dict[str, str]:
    """Installed versions of this package, Python and the libraries that decide a result."""
    found = {"python": platform.python_version(), "hf_finetune": version("hf_finetune")}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def package_commit() -> str | None:
    """Git commit of this package when it runs from a checkout; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    answer = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def hardware(device: Any, processes: int) -> dict[str, Any]:
    """Processor, cores, threads, GPU and number of processes. `device` is a torch.device."""
    import torch

    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device.type,
        "processes": processes,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def memory(device: Any) -> dict[str, float]:
    """Peak memory of this process so far, in megabytes (10^6 bytes)."""
    import torch

    # Linux counts kilobytes here, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)}
    if device.type == "cuda":
        found["peak_device_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return found


def seconds_since_start() -> float:
    """Wall-clock since this process began, interpreter and imports included."""
    return time.time() - psutil.Process().create_time()


def cache_folder() -> Path:
    """Where this package keeps what later runs can use again; the folder need not exist.

    `HF_FINETUNE_CACHE`, else `$XDG_CACHE_HOME/hf_finetune`, else `~/.cache/hf_finetune`.
    """
    own = os.environ.get("HF_FINETUNE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home).expanduser().absolute() if home else Path.home() / ".cache") / "hf_finetune"
