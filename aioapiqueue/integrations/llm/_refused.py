"""Refusals of calls before they are sent, and how they reach the users of SDKs.

The SDKs of OpenAI and Google pass on what their HTTP client raises. Anthropic's wraps any error in
an `APIConnectionError` and tries again, so its transport answers in the server's place, with an
error that its SDK does not retry.
"""

from __future__ import annotations

from typing import Any

from aioapiqueue import LimitExceeded
from aioapiqueue.exceptions import ApiQueueError

EXTENSION = "aioapiqueue.refused"
"""Extension in which a local answer holds the error that it stands for."""
_DEEPEST = 100


class NoPrice(ApiQueueError, ValueError):  # noqa: N818 - as `LimitExceeded`
    """Raised for a call under a limit in USD whose highest price is unknown. Nothing was sent.

    The message says what to do: name the model or its price (`prices=`), or set a maximum for the
    response (`max_output=`).
    """


def limit_exceeded(error: BaseException | None) -> LimitExceeded | None:
    """Return the `LimitExceeded` that made a call of an SDK fail, or None.

    Any error may be passed: `LimitExceeded` itself, the error of an SDK, or that of a framework
    which was raised from one of these.

    Args:
        error: what the SDK raised.

    Example:
        exceeded = llm.limit_exceeded(error)
    """
    for _ in range(_DEEPEST):  # a chain of causes may be a circle
        if error is None or isinstance(error, LimitExceeded):
            return error
        response = getattr(error, "response", None)
        held = getattr(response, "extensions", None)
        if isinstance(held, dict) and isinstance(found := held.get(EXTENSION), LimitExceeded):
            return found
        error = error.__cause__ or error.__context__
    return None


def local_answer(library: Any, error: Exception) -> Any:  # noqa: ANN401 - of either library
    """Return a response in Anthropic's format that stands for an error.

    Args:
        library: httpx or httpx2.
        error: why the call was not sent.
    """
    is_limit = isinstance(error, LimitExceeded)
    kind = "billing_error" if is_limit else "invalid_request_error"
    return library.Response(
        402 if is_limit else 400,
        headers={"x-should-retry": "false"},
        json={"type": "error", "error": {"type": kind, "message": str(error)}},
        extensions={EXTENSION: error},
    )
