"""A Hub that fails: which errors pass, how long to wait for that, and what to say of those that do not."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx, parse_ratelimit_headers

from hf_finetune.errors import InputError, PushError

# Spoken aloud: a wait of minutes must not look like a hang.
logger = logging.getLogger("hf_finetune.run")

T = TypeVar("T")

TRANSIENT = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
# huggingface_hub's own retries of a failing request wait 1 + 2 + 4 + 8 + 8 s.
UPSTREAM_WAIT_S = 23.0


@dataclass(frozen=True)
class Patience:
    """How long a failing Hub is waited for."""

    total_s: float = 120.0
    """All waits of one push together, those that huggingface_hub makes within a failing request included."""
    first_s: float = 1.0
    """About the first wait of a step; each further one is twice as long."""
    longest_s: float = 30.0
    """About the longest one, unless the Hub itself asks for more."""
    sleep: Callable[[float], None] = time.sleep


DEFAULT_PATIENCE = Patience()


class Persistence:
    """Call a step until it succeeds, is refused, or patience ends."""

    def __init__(self, patience: Patience, repo_id: str, token: str) -> None:
        self.patience = patience
        self.repo_id = repo_id
        self.token = token
        self.waited_s = 0.0

    def __call__(self, step: Callable[[], T]) -> T:
        """
        Raises:
            InputError: the Hub refused.
            PushError: the Hub kept failing. Neither quotes the token, nor is chained to an error that might.
        """
        wait = self.patience.first_s
        while True:
            started = time.monotonic()
            try:
                return step()
            except InputError:
                raise
            except (HfHubHTTPError, httpx.TransportError, LocalEntryNotFoundError, RuntimeError, ValueError) as error:
                # ValueError: the Hub finds the card's metadata invalid.
                cause = _cause(error)
                if isinstance(cause, RuntimeError):
                    raise
                if not _is_transient(cause):
                    raise self.refusal(cause) from None
                said = self.safe(cause)
                # Jitter keeps the pushes that one outage has stopped from coming back all at once.
                pause = max(wait * random.uniform(0.5, 1.0), _asked_wait(cause))
            # An upload may have taken its time before the failure: that was no waiting.
            self.waited_s += min(time.monotonic() - started, UPSTREAM_WAIT_S)
            if self.waited_s + pause > self.patience.total_s:
                raise PushError(
                    f"{self.repo_id}: gave up after {self.waited_s:.0f} s of waiting ({said}); it is safe to push again"
                ) from None
            logger.info("the Hub failed (%s); trying again in %.1f s", said, pause)
            self.patience.sleep(pause)
            self.waited_s += pause
            wait = min(2 * wait, self.patience.longest_s)

    def safe(self, error: BaseException) -> str:
        """What went wrong, in one line without the token."""
        said = first_line(error)
        return said.replace(self.token, "[token]") if self.token else said

    def refusal(self, error: BaseException) -> InputError:
        """The remedy for a request that will never succeed."""
        match error.response.status_code if isinstance(error, HfHubHTTPError) else None:
            case 401:
                return InputError("the Hub does not accept the token: run `hf auth login` again, or set HF_TOKEN anew")
            case 403:
                return InputError(
                    f"{self.repo_id}: this token may not write there; take one of role write, or another name"
                )
            case 404:
                return InputError(f"{self.repo_id}: not found, or not yours to see ({self.safe(error)})")
        return InputError(f"{self.repo_id}: the push was refused: {self.safe(error)}")


def _cause(error: BaseException) -> BaseException:
    """The failed request behind the errors that huggingface_hub wraps around it."""
    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return False
    # A proxy's error page where JSON was expected.
    return isinstance(error, httpx.TransportError | json.JSONDecodeError)


def _asked_wait(error: BaseException) -> float:
    """Seconds that the Hub asks to be left alone, 0 when it does not."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    if (limit := parse_ratelimit_headers(headers)) is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    after = headers.get("retry-after", "")
    return float(after) if after.isdigit() else 0.0


def first_line(error: BaseException) -> str:
    """The server's own words where it has some, else the beginning of the error's."""
    if isinstance(error, HfHubHTTPError) and error.server_message:
        return f"{error.response.status_code} {error.server_message.splitlines()[0]}"
    lines = str(error).strip().splitlines()
    return " ".join(lines[:2]) if lines else type(error).__name__
