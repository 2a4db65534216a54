"""Constrained decoding: the most likely tags of a sentence of which each may follow the one before.

Legend: W words, C tags.
"""

import numpy as np

from hf_finetune.data.ragged import Ragged
from hf_finetune.data.tag_scheme import TagScheme

_TINY = np.finfo(np.float64).tiny


def decode(scores: Ragged, scheme: TagScheme) -> np.ndarray:
    """Return the tags (W,) with the highest product of probabilities among those that the scheme allows.

    Args:
        scores: probabilities of each word's tags, (W, C).
    """
    allowed_CC, begins_C, ends_C = scheme.allowed()
    steps_CC, first_C, last_C = (np.where(allowed, 0.0, -np.inf) for allowed in (allowed_CC, begins_C, ends_C))
    tags_W = np.empty(len(scores.values), dtype=np.int64)
    for start, stop in zip(scores.offsets[:-1], scores.offsets[1:], strict=True):
        log_p_TC = np.log(np.maximum(scores.values[start:stop], _TINY))
        tags_W[start:stop] = _best_path(log_p_TC, steps_CC, first_C, last_C)
    return tags_W


def _best_path(log_p_TC: np.ndarray, steps_CC: np.ndarray, first_C: np.ndarray, last_C: np.ndarray) -> np.ndarray:
    best_C, came_from = log_p_TC[0] + first_C, []
    for log_p_C in log_p_TC[1:]:
        reached_CC = best_C[:, None] + steps_CC
        came_from.append(reached_CC.argmax(axis=0))
        best_C = reached_CC.max(axis=0) + log_p_C
    path = [int((best_C + last_C).argmax())]
    for before_C in reversed(came_from):
        path.append(int(before_C[path[-1]]))
    return np.array(path[::-1])
