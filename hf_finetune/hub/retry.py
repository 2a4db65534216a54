"""Repeat a request to the Hub while its failure is transient; report every other failure in one line.

`huggingface_hub.utils.http_backoff` repeats single requests. A commit needs more: a lost response may hide a commit
that was made, so each attempt has to read the branch again.
"""

import logging
import random
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hf_finetune.errors import InputError, PushError
from hf_finetune.utils import hub_requests
from hf_finetune.utils.hub_requests import (
    NEW_TOKEN,
    answers_awaited,
    cause_of,
    first_line,
    is_transient,
    is_unreachable,
    requested_wait,
)

# Logged, so that a wait of minutes does not look like a hang.
logger = logging.getLogger("hf_finetune.run")

T = TypeVar("T")

TRANSIENT = hub_requests.TRANSIENT | {409, 412}
MOST_WAITING_S = 120.0
"""Upper bound on all waits of one `Retries`, those within huggingface_hub included."""
MOST_UNREACHED_S = 5.0
"""The same while no request has reached the Hub: whoever is offline should not wait for the error."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Waits of a step double from the first to the longest, unless the Hub asks for more."""
UPSTREAM_WAIT_S = 23.0
"""Waits of huggingface_hub's own retries within one failing request: 1 + 2 + 4 + 8 + 8 s."""


class Retries:
    """Runs the steps of one push, each until it succeeds or is refused, or until the waiting time is spent.

    Args:
        repo_id: names the repository in messages.
        token: is removed from messages.
        reached: whether a request has reached the Hub already.
    """

    def __init__(self, repo_id: str, token: str, *, reached: bool = False) -> None:
        self.repo_id, self.token, self.reached = repo_id, token, reached
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
                with answers_awaited():
                    result = step()
                self.reached = True
                return result
            except InputError:
                raise
            except (HfHubHTTPError, httpx.RequestError, OSError, RuntimeError, ValueError) as error:
                # ValueError: the Hub finds the card's metadata invalid.
                cause = cause_of(error)
                if isinstance(cause, RuntimeError):
                    raise
                if not is_transient(cause, TRANSIENT):
                    raise self._refusal(cause) from None
                message = self._message(cause)
                # Jitter: pushes that one outage has stopped do not come back all at once.
                pause_s = max(wait_s * random.uniform(0.5, 1.0), requested_wait(cause))
            self.reached |= not is_unreachable(cause)
            # A slow upload before the failure does not count as waiting.
            self.waited_s += min(monotonic() - started, UPSTREAM_WAIT_S)
            if not self.reached and self.waited_s + pause_s > MOST_UNREACHED_S:
                why = f"the Hub cannot be reached ({message})"
                raise PushError(f"{self.repo_id}: {why}; check the network, and push again") from None
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

    def _refusal(self, error: BaseException) -> InputError | PushError:
        if isinstance(error, OSError) and error.errno is not None:
            where = error.filename or "a file"
            return PushError(f"{self.repo_id}: {where}: {error.strerror}; make room there: it is safe to push again")
        match error.response.status_code if isinstance(error, HfHubHTTPError) else None:
            case 401:
                return InputError(NEW_TOKEN)
            case 403:
                return InputError(
                    f"{self.repo_id}: the token may not write there; use a token of role write, or another repository"
                )
            case 404:
                return InputError(f"{self.repo_id}: not found, or not visible to you ({self._message(error)})")
        return InputError(f"{self.repo_id}: the Hub refused the push: {self._message(error)}")
