"""Bodies of requests that are too large, too slow, or both."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from hf_finetune.inference.serving.app import UNREAD, Refused, _body
from hf_finetune.inference.serving.config import ServeLimits

LIMITS = ServeLimits(max_body=10, body_timeout=0.05)


def read(parts: Sequence[bytes], *, declared: int | None = None, ends: bool = True) -> bytes:
    """Read a body of these parts, after which a client that does not end its request sends nothing more."""
    remaining = list(parts)

    async def receive() -> dict[str, Any]:
        if not remaining:
            await asyncio.sleep(60)
        part = remaining.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(remaining) or not ends}

    headers = [] if declared is None else [(b"content-length", str(declared).encode())]
    return asyncio.run(_body(Request({"type": "http", "headers": headers}, receive), LIMITS))


def test_a_body_is_joined() -> None:
    assert read([b"four ", b"parts"], declared=10) == b"four parts"


@pytest.mark.parametrize(
    ("parts", "options", "status", "message"),
    [
        ([b"1"], {"declared": 10, "ends": False}, 408, "did not arrive within 0.05 s"),
        ([b"1"], {"ends": False}, 408, "did not arrive within 0.05 s"),
        ([b"1"], {"declared": 11, "ends": False}, 413, "at most 10 bytes"),
        ([b"1" * 11], {"ends": False}, 413, "at most 10 bytes"),
        ([b"1" * 8, b"1" * 8], {"declared": 16}, 413, "at most 10 bytes"),
        ([], {"declared": UNREAD * 10 + 1, "ends": False}, 413, "at most 10 bytes"),
        ([b"1" * (UNREAD * 10 + 1)], {"ends": False}, 413, "at most 10 bytes"),
    ],
    ids=["slow", "slow in chunks", "slow and declared", "slow and too large", "too large", "far declared", "far"],
)
def test_a_body_is_refused(parts: list[bytes], options: dict[str, Any], status: int, message: str) -> None:
    """Only one that could still be within the limit is told that it was too slow, which clients repeat."""
    with pytest.raises(Refused, match=message) as refused:
        read(parts, **options)
    assert refused.value.status == status and refused.value.headers == {"connection": "close"}


def test_no_part_of_a_body_that_is_too_large_stays() -> None:
    first = bytes(10)
    counts: list[int] = []

    async def receive() -> dict[str, Any]:
        counts.append(sys.getrefcount(first))
        number = len(counts)
        return {"type": "http.request", "body": first if number == 1 else b"1", "more_body": number < 4}

    with pytest.raises(Refused):
        asyncio.run(_body(Request({"type": "http", "headers": []}, receive), LIMITS))
    assert counts[1] > counts[0] == counts[3], "it is held while it could be within the limit"
