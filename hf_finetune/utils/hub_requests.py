"""Requests to the Hub: which failures may pass, how long to wait for an answer, and downloads that are repeated.

huggingface_hub repeats some requests itself. But it waits for most answers without end, gives up when a connection
breaks within a file, and leaves what other servers on the way may do (a log-in page, a cut-off file) to its caller.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep
from typing import TypeVar

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx, parse_ratelimit_headers

logger = logging.getLogger("hf_finetune.run")

T = TypeVar("T")

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of answers with which a request may be repeated."""
CONNECT_S, ANSWER_S = 15.0, 60.0
"""Longest waits for a connection, and for the next part of an answer. A commit of many files takes seconds."""
WAITS_S = (1.0, 3.0, 9.0)
"""Waits before a download is tried again, unless the Hub asks for more."""
MOST_REQUESTED_S = 60.0
TRUNCATED = "Consistency check failed"
"""Begins the OSError of huggingface_hub for a file of another size than announced."""
NEW_TOKEN = "the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN"


def cause_of(error: BaseException) -> BaseException:
    """Return the failed request inside the errors that huggingface_hub and datasets wrap around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, HfHubHTTPError | httpx.HTTPError):
            return inner
        inner = inner.__cause__
    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_transient(error: BaseException, statuses: frozenset[int] = TRANSIENT) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in statuses
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return False
    # JSONDecodeError: a proxy sent its error page in place of JSON.
    return isinstance(error, httpx.TransportError | json.JSONDecodeError) or is_truncated(error)


def is_unreachable(error: BaseException) -> bool:
    """Return whether there is no connection at all, or none may be made."""
    cause = cause_of(error)
    return isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | LocalEntryNotFoundError | ConnectionError)


def is_refused_token(cause: BaseException) -> bool:
    """Return whether a request failed because of the user's token."""
    return isinstance(cause, HfHubHTTPError) and cause.response.status_code == 401


def is_truncated(error: BaseException) -> bool:
    """Return whether a file was cut off, or another one came in its place."""
    return isinstance(error, OSError) and str(error).startswith(TRUNCATED)


def requested_wait(error: BaseException) -> float:
    """Return the seconds that the Hub asks to wait, or 0."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    if (limit := parse_ratelimit_headers(headers)) is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    after = headers.get("retry-after", "")
    return float(after) if after.isdigit() else 0.0


def first_line(error: BaseException) -> str:
    """Return the server's message, or else the first two lines of the error's, without the signatures of links."""
    if isinstance(error, HfHubHTTPError) and error.server_message:
        return f"{error.response.status_code} {error.server_message.splitlines()[0]}"
    lines = str(error).strip().splitlines()
    return re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", " ".join(lines[:2])) if lines else type(error).__name__


@contextmanager
def answers_awaited() -> Iterator[None]:
    """Give up requests in the block that get no answer; a request that has timeouts of its own keeps them."""
    client = get_session()
    before = client.event_hooks
    client.event_hooks = {**before, "request": [*before["request"], _limit_waiting]}
    try:
        yield
    finally:
        client.event_hooks = before


def _limit_waiting(request: httpx.Request) -> None:
    # huggingface_hub asks for no timeout in each request, so the client's own would have no effect.
    limits = {"connect": CONNECT_S, "read": ANSWER_S, "write": ANSWER_S, "pool": ANSWER_S}
    own = {name: limit for name, limit in request.extensions.get("timeout", {}).items() if limit is not None}
    request.extensions = {**request.extensions, "timeout": limits | own}


def download(fetch: Callable[[], T]) -> T:
    """Return what `fetch` downloads; try again while its failure may pass. Files that are complete stay cached.

    Raises:
        Exception: the last failure, as the library raises it.
    """
    for wait_s in (*WAITS_S, None):
        try:
            with answers_awaited():
                return fetch()
        except Exception as error:  # each library raises its own
            cause = cause_of(error)
            if wait_s is None or not _may_pass(cause):
                raise
            pause_s = max(wait_s, min(requested_wait(cause), MOST_REQUESTED_S))
            logger.info("the Hub failed (%s); trying again in %.0f s", _why(cause), pause_s)
        sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _may_pass(cause: BaseException) -> bool:
    if is_unreachable(cause) or isinstance(cause, httpx.TimeoutException):
        # Whoever is offline, or mistypes a folder, should not wait for the error; who has waited, not once more.
        return False
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code == 403:
        # A link to a file, not a page of the Hub's: it may have expired, and the next one is a new one.
        return "x-error-code" not in cause.response.headers and "/api/" not in cause.response.url.path
    return is_transient(cause)


def download_failure(error: BaseException) -> str:
    """Return why a download failed, and the remedy, where that is not about the repository."""
    cause = cause_of(error)
    if is_refused_token(cause):
        return NEW_TOKEN
    if isinstance(cause, OSError) and cause.errno is not None:
        place = cause.filename or constants.HF_HUB_CACHE
        return f"{place} cannot be written ({cause.strerror}); make room there, or name another folder by HF_HOME"
    if is_transient(cause):
        return f"the download broke off ({_why(cause)}); try again: finished files are kept"
    return f"the Hub refused it ({_why(cause)}); try again later, or download it otherwise and name its folder"


def _why(cause: BaseException) -> str:
    if is_truncated(cause):
        return "a file came in another size than announced"
    if isinstance(cause, json.JSONDecodeError):
        return "another page came in place of the Hub's answer, perhaps that of a proxy"
    return first_line(cause)
