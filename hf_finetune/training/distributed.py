"""What the processes of a run agree on, and one-line errors where one loses its peers."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import TrainingArguments

from hf_finetune.errors import TrainingError

# Messages of gloo and of NCCL.
LOST = re.compile(
    "connection closed by peer|connection reset by peer|broken pipe|remote process exited|socketTimeout", re.IGNORECASE
)


def in_any_process(args: TrainingArguments, *facts: bool) -> list[bool]:
    """Return whether each holds in any process: all must save and stop at the same step."""
    if args.world_size == 1:
        return list(facts)
    counts = torch.tensor(facts, dtype=torch.float32, device=args.device)
    torch.distributed.all_reduce(counts)
    return [bool(count) for count in counts.tolist()]


def largest(args: TrainingArguments, value: float) -> float:
    """Return the largest value of all processes."""
    if args.world_size == 1:
        return value
    values = torch.tensor(value, dtype=torch.float32, device=args.device)
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return float(values)


@contextmanager
def plain_peer_errors() -> Iterator[None]:
    """Raise a lost connection as a TrainingError, in place of the communication library's traceback.

    Raises:
        TrainingError: another process of the run has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if LOST.search(str(error)) is None:
            raise
        raise TrainingError(
            "another process of this run has ended, see its message; --resume goes on from the last checkpoint"
        ) from None
