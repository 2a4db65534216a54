"""What disturbs chosen requests to the Hub of `helpers.hub_server`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helpers.hub_store import Answer


@dataclass
class Fault:
    """What happens to the next `times` requests that match."""

    method: str
    pattern: re.Pattern[str]
    times: int
    action: Callable[[], None] | None = None
    answer: Answer | None = None
    after_commit: bool = False
    drop: bool = False
    reset_request: bool = False
    changes: dict[str, Any] | None = None
    """Fields of the answer that are others."""


class Faults:
    """The faults of a server, by the requests that they happen to."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def fail(
        self,
        method: str,
        path: str,
        *,
        status: int,
        times: int = 1,
        after_commit: bool = False,
        headers: dict[str, str] | None = None,
        message: str = "disturbed",
    ) -> None:
        """Answer with `status`, before the request takes effect or after."""
        answer = Answer(status, {"error": message}, {"X-Error-Message": message, **(headers or {})})
        self.faults.append(Fault(method, re.compile(path), times, answer=answer, after_commit=after_commit))

    def drop_answer(self, method: str, path: str, *, times: int = 1) -> None:
        """Let the request take effect, then close the connection without an answer."""
        self.faults.append(Fault(method, re.compile(path), times, drop=True))

    def intervene(self, method: str, path: str, action: Callable[[], None]) -> None:
        """Run `action` just before the next matching request takes effect: someone else was faster."""
        self.faults.append(Fault(method, re.compile(path), 1, action=action))

    def reset_request(self, method: str, path: str, *, times: int = 1) -> None:
        """Reset the connection in the middle of the request's body, which takes no effect."""
        self.faults.append(Fault(method, re.compile(path), times, reset_request=True))

    def reset_answer(self, method: str, path: str, *, times: int = 1, after_bytes: int = 0) -> None:
        """Let the request take effect, and reset the connection in the middle of the answer's body."""
        self.faults.append(Fault(method, re.compile(path), times, changes={"resets_after": after_bytes}))

    def delay(self, method: str, path: str, *, times: int = 1, seconds: float = 0.0, byte_s: float = 0.0) -> None:
        """Let the request take effect, but send the answer late, or each byte of its body."""
        self.faults.append(Fault(method, re.compile(path), times, changes={"delay_s": seconds, "byte_s": byte_s}))

    def fault(self, method: str, path: str) -> Fault | None:
        """What happens to the request, and is used up by it."""
        with self.lock:
            matching = (f for f in self.faults if f.times and f.method == method and f.pattern.search(path))
            if (fault := next(matching, None)) is not None:
                fault.times -= 1
            return fault
