"""Launch several processes on this machine through Accelerate, with the exit status of the first that failed."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from hf_finetune.errors import StoppedBySignal, TrainingError
from hf_finetune.training.config import MixedPrecision
from hf_finetune.utils.core_sharing import available_cores
from hf_finetune.utils.exit_status import handled
from hf_finetune.utils.launched import LAUNCHER


def launch(command: Sequence[str], processes: int, *, mixed_precision: MixedPrecision) -> None:
    """Run `command` (a recipe script, or hf-finetune and its arguments) in several processes and wait.

    Raises:
        SystemExit: with the status of the first process that failed.
        TrainingError: a process was killed.
        StoppedBySignal: the launcher received a signal.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args(_launcher_arguments(command, processes, mixed_precision))
    # The system chooses the port as torch opens it. Accelerate would look for a free port, close it and open it again;
    # two runs that start at the same time may find the same one.
    arguments.rdzv_endpoint, arguments.local_addr = "127.0.0.1:0", "127.0.0.1"
    os.environ[LAUNCHER] = str(os.getpid())
    # torch would handle SIGHUP even where nohup has let it be ignored.
    names = [number.name for number in handled(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(names)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status < 0:
            raise TrainingError(
                f"a process was killed by {signal.Signals(-status).name}; --resume continues from the last checkpoint"
            ) from None
        raise SystemExit(status or 1) from None
    except SignalException as error:
        raise StoppedBySignal(f"stopped by {error.sigval.name}; --resume continues from the last checkpoint") from None
    sys.stdout.flush()


def _launcher_arguments(command: Sequence[str], processes: int, mixed_precision: MixedPrecision) -> list[str]:
    from hf_finetune.training.precision import default_device, resolve_mixed_precision

    return [
        # `--cpu --num_processes 2` would start one process. This launcher starts the requested number; without GPUs
        # they communicate over gloo.
        "--multi_gpu",
        f"--num_processes={processes}",
        "--num_machines=1",
        "--main_process_port=0",
        "--rdzv_backend=c10d",
        "--dynamo_backend=no",
        f"--mixed_precision={resolve_mixed_precision(mixed_precision, default_device())}",
        f"--num_cpu_threads_per_process={max(1, available_cores() // processes)}",
        *([command[0]] if command[0].endswith(".py") else ["--module", "hf_finetune"]),
        *command[1:],
    ]
