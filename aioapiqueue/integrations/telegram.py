"""Pace bots of python-telegram-bot; replaces its `AIORateLimiter`.

    queue = ApiQueue("30/s", lanes={"group:*": "1/s, 20 in any 1min", "chat:*": "1/s"})
    limiter = QueueRateLimiter(queue, max_retries=2)
    application = Application.builder().token(TOKEN).rate_limiter(limiter).build()

These are the limits of https://core.telegram.org/bots/faq#broadcasting-to-users, which Telegram
calls approximate.

A request to a chat has two keys: `"chat:ID"` for a private chat, or `"group:ID"` for a group or
channel (Telegram's ids do not distinguish them); and `"free"`. A request with
`allow_paid_broadcast` has only the key `"paid"`: a bot that pays writes
`lanes={"free": "30/s", "paid": "1000/s", ...}`. Requests without a chat are subject only to the
queue's own limits, and are sent first.

A `RetryAfter` does not name its limit, so it delays all requests. A long message counts as one
request, though Telegram may count it as several. The `@name` and the id of one chat are two
different keys. `getUpdates` is not paced.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._extras import needs

with needs("python-telegram-bot 22 or later", to="pacing Telegram bots", extra="telegram"):
    from telegram.error import RetryAfter
    from telegram.ext import BaseRateLimiter
    from telegram.warnings import PTBDeprecationWarning

from aioapiqueue.integrations._acquire_only import refuse_other_units
from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioapiqueue import ApiQueue

__all__ = ["QueueRateLimiter"]

_FIRST = -1
"""Priority of requests that go ahead of all others."""


class QueueRateLimiter(BaseRateLimiter[int]):
    """A queue as the `rate_limiter` of a bot.

    A `RetryAfter` delays all requests for the time that it names, even if some in flight succeed
    meanwhile. With `max_retries`, the request is then sent again with a new slot, ahead of waiting
    requests, so messages to a chat keep their order unless they were in flight together.

    A request that is cancelled while it waits uses no slot; a request that is cancelled in flight
    releases its slot at once. `QueueFull` and `QueueClosed` reach the caller of the bot's method.

    Args:
        queue: paces the requests. The bot does not close it.
        max_retries: number of times to send a request again after a `RetryAfter`. Default: 0. The
            `rate_limit_args` of a method overrides it for one request (except with 0, which
            python-telegram-bot 22 does not pass on).

    Raises:
        TypeError: `queue` is not an `ApiQueue`, or `max_retries` is not a whole number.
        ValueError: the queue limits a unit other than calls, or `max_retries` is negative.
    """

    __slots__ = ("_max_retries", "_queue")

    def __init__(self, queue: ApiQueue, *, max_retries: int = 0) -> None:
        refuse_other_units(queue, library="python-telegram-bot", paces_models=False)
        self._queue = queue
        checks.whole(max_retries, of="max_retries", least=0)
        self._max_retries = max_retries

    async def initialize(self) -> None:
        """Do nothing; a queue needs no start."""

    async def shutdown(self) -> None:
        """Do nothing; the queue may have other users."""

    async def process_request(  # noqa: PLR0917 - as the base class has it
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,  # noqa: ANN401 - as the base class has it
        kwargs: dict[str, Any],
        endpoint: str,  # noqa: ARG002 - no limit depends on it
        data: dict[str, Any],
        rate_limit_args: int | None,
    ) -> Any:  # noqa: ANN401 - what the callback returns
        """Send a request once its slot is granted, and again after a `RetryAfter`.

        Args:
            callback: coroutine function that sends the request.
            args: arguments of `callback`.
            kwargs: keyword arguments of `callback`.
            endpoint: method of Telegram's API; ignored.
            data: parameters of the bot's method.
            rate_limit_args: number of retries; None for `max_retries`.

        Raises:
            RetryAfter: the request was throttled, and no retry is left.
        """
        retries = self._max_retries if rate_limit_args is None else rate_limit_args
        checks.whole(retries, of="rate_limit_args", least=0)
        keys = _keys_of(data)
        priority = 0 if keys else _FIRST
        while True:
            async with self._queue.slot(keys=keys, priority=priority):
                try:
                    return await callback(*args, **kwargs)
                except RetryAfter as refusal:
                    self._queue.throttled(_seconds_of(refusal))  # the error names no limit
                    if retries == 0:
                        raise
            retries -= 1
            # Ahead of waiting requests, so that messages to one chat keep their order.
            priority = _FIRST


def _keys_of(data: dict[str, Any]) -> tuple[str, ...]:
    if data.get("allow_paid_broadcast"):
        return ("paid",)
    chat = data.get("chat_id")
    if chat is None:
        return ()
    with suppress(TypeError, ValueError):
        chat = int(chat)  # the id may be a string; an "@name" stays as it is
    # Ids of groups and channels are negative.
    kind = "chat" if isinstance(chat, int) and chat >= 0 else "group"
    return f"{kind}:{chat}", "free"


def _seconds_of(refusal: RetryAfter) -> float:
    with warnings.catch_warnings():
        # A number or a timedelta, as the user has configured. A number is deprecated.
        warnings.simplefilter("ignore", PTBDeprecationWarning)
        after = refusal.retry_after
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    return min(max(seconds, 0), checks.LONGEST)
