"""Repeat a request to the Hub while its failure is transient; report every other failure in one line.

`huggingface_hub.utils.http_backoff` repeats single requests. A commit needs more: a lost response may hide a commit
that was made, so each attempt has to read the branch again.
"""

import json
import logging
import random
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx, parse_ratelimit_headers

from hf_finetune.errors import InputError, PushError

# Logged, so that a wait of minutes does not look like a hang.
logger = logging.getLogger("hf_finetune.run")

T = TypeVar("T")

TRANSIENT = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
MOST_WAITING_S = 120.0
"""Upper bound on all waits of one `Retries`, those within huggingface_hub included."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Waits of a step double from the first to the longest, unless the Hub asks for more."""
UPSTREAM_WAIT_S = 23.0
"""Waits of huggingface_hub's own retries within one failing request: 1 + 2 + 4 + 8 + 8 s."""


class Retries:
    """Runs the steps of one push, each until it succeeds or is refused, or until the waiting time is spent.

    Args:
        repo_id: names the repository in messages.
        token: is removed from messages.
    """

    def __init__(self, repo_id: str, token: str) -> None:
        self.repo_id, self.token = repo_id, token
        self.waited_s = 0.0

    def __call__(self, step: Callable[[], T]) -> T:
        """Run a step that may be repeated.

        Raises:
            InputError: the Hub refused.
            PushError: the Hub kept failing. Neither error shows the token or chains one that might.
        """
        wait_s = FIRST_WAIT_S
        while True:
            started = monotonic()
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
                    raise self._refusal(cause) from None
                message = self._message(cause)
                # Jitter: pushes that one outage has stopped do not come back all at once.
                pause_s = max(wait_s * random.uniform(0.5, 1.0), _requested_wait(cause))
            # A slow upload before the failure does not count as waiting.
            self.waited_s += min(monotonic() - started, UPSTREAM_WAIT_S)
            if self.waited_s + pause_s > MOST_WAITING_S:
                raise PushError(
                    f"{self.repo_id}: gave up after {self.waited_s:.0f} s of waiting ({message}); safe to push again"
                ) from None
            logger.info("the Hub failed (%s); trying again in %.1f s", message, pause_s)
            sleep(pause_s)
            self.waited_s += pause_s
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _message(self, error: BaseException) -> str:
        line = first_line(error)
        return line.replace(self.token, "[token]") if self.token else line

    def _refusal(self, error: BaseException) -> InputError:
        match error.response.status_code if isinstance(error, HfHubHTTPError) else None:
            case 401:
                return InputError("the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN")
            case 403:
                return InputError(
                    f"{self.repo_id}: the token may not write there; use a token of role write, or another repository"
                )
            case 404:
                return InputError(f"{self.repo_id}: not found, or not visible to you ({self._message(error)})")
        return InputError(f"{self.repo_id}: the Hub refused the push: {self._message(error)}")


def _cause(error: BaseException) -> BaseException:
    """Return the failed request inside the errors that huggingface_hub wraps around it."""
    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return False
    # JSONDecodeError: a proxy sent its error page in place of JSON.
    return isinstance(error, httpx.TransportError | json.JSONDecodeError)


def _requested_wait(error: BaseException) -> float:
    """Return the seconds that the Hub asks to wait, or 0."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    if (limit := parse_ratelimit_headers(headers)) is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    after = headers.get("retry-after", "")
    return float(after) if after.isdigit() else 0.0


def first_line(error: BaseException) -> str:
    """Return the server's message, or else the first two lines of the error's."""
    if isinstance(error, HfHubHTTPError) and error.server_message:
        return f"{error.response.status_code} {error.server_message.splitlines()[0]}"
    lines = str(error).strip().splitlines()
    return " ".join(lines[:2]) if lines else type(error).__name__
