"""A process that loses the others of its run says so in one line, in place of the communication library's traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hf_finetune.errors import TrainingError

# gloo's words, and NCCL's.
LOST = re.compile(
    "connection closed by peer|connection reset by peer|broken pipe|remote process exited|socketTimeout", re.IGNORECASE
)


@contextmanager
def plain_peer_errors() -> Iterator[None]:
    """Raise a lost connection as what it means.

    Raises:
        TrainingError: another process of the run has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if LOST.search(str(error)) is None:
            raise
        raise TrainingError(
            "another process of this run has ended, see what it said; --resume goes on from the last checkpoint"
        ) from None
