"""Several processes on this machine, through Accelerate's launcher, with the exit status of the one that failed."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from hf_finetune.errors import StoppedBySignal, TrainingError
from hf_finetune.training.config import MixedPrecision


def launch(command: Sequence[str], processes: int, *, mixed_precision: MixedPrecision) -> None:
    """Run `command` (a recipe script, or hf-finetune and its arguments) in `processes` processes and wait.

    `accelerate launch --cpu --num_processes 2` would start one; its launcher for several GPUs starts as many as asked
    for, and on a machine without GPUs they find each other over gloo.

    Raises:
        SystemExit: with the status of the first process that failed.
        TrainingError: when a process was killed.
        StoppedBySignal: when a signal reached the launcher.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from hf_finetune.training.precision import default_device, resolve_mixed_precision

    script = [command[0]] if command[0].endswith(".py") else ["--module", "hf_finetune"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    arguments = [
        "--multi_gpu",
        f"--num_processes={processes}",
        "--num_machines=1",
        "--main_process_port=0",
        "--rdzv_backend=c10d",
        "--dynamo_backend=no",
        f"--mixed_precision={resolve_mixed_precision(mixed_precision, default_device())}",
        f"--num_cpu_threads_per_process={threads}",
        *script,
        *command[1:],
    ]
    parsed = launch_command_parser().parse_args(arguments)
    # torch's own arguments: the processes meet at a port that the system chooses as it opens it. Accelerate looks for a
    # free one, closes it and opens it again; of two runs that start at the same time, both may find the same one.
    parsed.rdzv_endpoint, parsed.local_addr = "127.0.0.1:0", "127.0.0.1"
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status < 0:
            killer = signal.Signals(-status).name
            raise TrainingError(
                f"a process was killed by {killer}; --resume goes on from the last checkpoint"
            ) from None
        raise SystemExit(status or 1) from None
    except SignalException as error:
        raise StoppedBySignal(f"stopped by {error.sigval.name}; --resume goes on from the last checkpoint") from None
    sys.stdout.flush()
