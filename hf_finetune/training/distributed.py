"""One-line errors where a process loses its peers, in place of the communication library's traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hf_finetune.errors import TrainingError

# Messages of gloo and of NCCL.
LOST = re.compile(
    "connection closed by peer|connection reset by peer|broken pipe|remote process exited|socketTimeout", re.IGNORECASE
)


@contextmanager
def plain_peer_errors() -> Iterator[None]:
    """Raise a lost connection as a TrainingError.

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
