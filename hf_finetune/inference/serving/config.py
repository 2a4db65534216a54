"""Limits of a server."""

from __future__ import annotations

from hf_finetune.utils.config import Count, NonNegative, Positive, configclass


@configclass
class ServeLimits:
    """What a server takes, and how it gathers rows of several requests."""

    max_batch: Count = 32
    """Rows that are computed together, of several requests. 1: each request by itself."""
    max_wait: NonNegative = 0.0
    """Milliseconds at most for which rows that gathered while others were computed wait for more. What arrives while
    nothing is computed never waits. 0: rows gather only while others are computed."""
    max_queue: Count = 1024
    """Rows that wait at most. A request beyond them is answered with status 429."""
    max_rows: Count = 256
    """Rows of a request at most (413)."""
    max_body: Count = 4_000_000
    """Bytes of a request's body at most (413)."""
    body_timeout: Positive = 10.0
    """Seconds in which a body has to arrive (408)."""


SERVE_LIMITS = ServeLimits()
