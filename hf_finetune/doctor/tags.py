"""Check the tags of rows: how often and with which others they occur.

Legend: N rows, C tags.
"""

from collections.abc import Sequence

import numpy as np

from hf_finetune.doctor.findings import Finding, diagnose

MOST_WITHOUT = 0.5
"""Share of rows without a tag from which they should be checked."""


def examine_tags(hot_NC: np.ndarray, names: Sequence[str]) -> list[Finding]:
    """Check how the tags of the training rows occur together.

    Args:
        hot_NC: a 0 or 1 for each row and tag.
    """
    hot_NC = hot_NC.astype(np.int64)
    rows_C, tags_N = hot_NC.sum(axis=0), hot_NC.sum(axis=1)
    both_CC = hot_NC.T @ hot_NC
    alone_C = hot_NC[tags_N == 1].sum(axis=0)
    without = int((tags_N == 0).sum())
    never = [c for c in range(len(names)) if rows_C[c] and not alone_C[c]]
    everywhere = [names[c] for c in np.flatnonzero(rows_C == len(hot_NC)).tolist()]
    equal = np.triu((both_CC == rows_C) & (both_CC == rows_C[:, None]) & (rows_C > 0), 1)
    together = [f"{names[a]} and {names[b]}: {rows_C[a]:,} rows" for a, b in np.argwhere(equal).tolist()]
    return [
        diagnose("tags_together", len(names), details=together),
        diagnose("tags_everywhere", len(names), details=everywhere),
        diagnose(
            "tags_never_alone", len(names), details=[_companion(c, both_CC, names) for c in never], count=len(never)
        ),
        diagnose(
            "without_tags",
            len(hot_NC),
            count=without,
            severity="look" if without > MOST_WITHOUT * len(hot_NC) else None,
        ),
    ]


def _companion(tag: int, both_CC: np.ndarray, names: Sequence[str]) -> str:
    """Describe the other tag that a tag occurs with most often."""
    others_C = both_CC[tag].copy()
    others_C[tag] = -1
    other, rows = int(others_C.argmax()), int(both_CC[tag, tag])
    how = "always" if others_C[other] == rows else f"in {others_C[other]:,} of them"
    return f"{names[tag]}: {rows:,} rows, {how} with {names[other]}"
