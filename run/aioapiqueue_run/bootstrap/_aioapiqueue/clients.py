"""Changes the classes of botocore's clients, and handles the events of clients.

Each class gets event handlers, and a `finally` around its calls, as a cancelled call has no event.
An attempt waits in `request-created.<service>`, which is emitted once for each attempt, before it
is signed. It ends with `response-received.<service>`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from inspect import isawaitable
from typing import Any

from . import HUB, MARK, process
from . import _botocore_calls as _calls
from .attempts import BotocoreCall, HttpAttempt, current, text
from .hosts import labels_of
from .threads import ThreadAttempt


def _marked_words() -> list[str]:
    try:
        with open(os.path.join(os.path.dirname(HUB), "marked"), encoding="utf-8") as file:
            return file.read().split()
    except OSError:  # the program has outlived its run, whose folder is gone
        return []


_words = _marked_words() if MARK else []
_MARKED = tuple("." + word for word in _words if "." in word)
"""Suffixes of the host names whose requests are marked."""
_UNMARKED = frozenset(word for word in _words if "." not in word)
"""Labels of host names that are not marked even with such a suffix: the gateway does not intercept
their connections, so the server would receive the mark."""


def pace_class(cls: Any) -> None:
    """Make every client of a generated class ask before each attempt."""
    asynchronous = any(base.__module__.partition(".")[0] == "aiobotocore" for base in cls.__mro__)
    attempt: type[HttpAttempt] = ThreadAttempt
    if asynchronous:
        from .loops import TaskAttempt  # only now, as it imports asyncio

        attempt = TaskAttempt

    def __init__(self: Any, *args: object, **kwargs: object) -> None:  # noqa: N807
        super(cls, self).__init__(*args, **kwargs)
        attend(self)

    def attend(self: Any) -> None:
        # At a call, too: threads may share a client that was made before its class was hooked.
        with process.lock:
            if "_aioapiqueue" not in vars(self):
                _Handlers(self.meta, self._request_signer, attempt).register(self.meta)
                self._aioapiqueue = True

    def _make_api_call(self: Any, operation_name: str, api_params: object) -> object:
        attend(self)
        return attempt.drive(call(self, operation_name, api_params))

    async def call(self: Any, operation_name: str, api_params: object) -> object:
        this = BotocoreCall(api_params)
        token = current.set(this)
        try:
            answer = super(cls, self)._make_api_call(operation_name, api_params)
            return await answer if isawaitable(answer) else answer
        except Exception as error:
            this.fail(error)
            raise
        finally:
            this.end()
            with suppress(ValueError):  # closed in another context, as its loop has ended
                current.reset(token)

    cls._aioapiqueue = True
    cls.__init__ = __init__
    cls._make_api_call = _make_api_call


class _Handlers:
    """Handles the events of one client."""

    # Does not refer to the client, whose events refer to this object: a cycle would keep both alive
    # until the next garbage collection.

    def __init__(self, meta: Any, signer: Any, attempt: Any) -> None:
        self._service = meta.service_model.service_name
        self._region = meta.region_name
        self._signer = signer
        self._attempt = attempt

    def register(self, meta: Any) -> None:
        """Register the handlers."""
        service_id = meta.service_model.service_id.hyphenize()
        # First, as the client's signer is a handler of the same event: a signature grows old.
        meta.events.register_first(f"request-created.{service_id}", self._start)
        meta.events.register_first(f"before-send.{service_id}", self._sending)
        meta.events.register_first(f"before-parse.{service_id}", self._arrived)
        meta.events.register_first(f"response-received.{service_id}", self._finish)

    def _start(self, operation_name: str, request: Any, **_: object) -> object:
        """Wait until an attempt may be sent; if cancelled or interrupted, leave the queue."""
        call = current.get()
        key, account = _signed_by(getattr(self._signer, "_credentials", None))
        fields = {
            "service": self._service,
            "operation": operation_name,
            "region": text(request.context.get("client_region") or self._region),
            "key": key,
            "account": account,
            "parameters": _calls.parameter_counts(None if call is None else call.parameters),
        }
        return self._attempt.drive(self._attempt().start(fields, call))

    def _sending(self, request: Any = None, **_: object) -> None:
        """Note that the attempt has been signed, and mark it for the gateway."""
        # After the signature, which must not cover the mark.
        if MARK and request is not None and _is_marked(_host_of(request.url)):
            request.headers["x-aioapiqueue-asked"] = MARK  # the run's gateway removes it
        call = current.get()
        if call is not None and call.attempt is not None:
            call.attempt.signing.discard(call.attempt)

    def _arrived(self, response_dict: Any = None, **_: object) -> None:
        """Keep the status in case parsing fails; botocore 1.31 has no such event."""
        call = current.get()
        if call is not None and isinstance(response_dict, dict):
            call.answer = _answer(response_dict)

    def _finish(
        self,
        response_dict: Any = None,
        parsed_response: Any = None,
        exception: object = None,
        **_: object,
    ) -> None:
        """Release the slot, and report the outcome of the attempt."""
        call = current.get()
        if call is None or call.attempt is None:
            return
        if response_dict is None:
            call.end(failed=text(type(exception).__name__))
            return
        error = parsed_response.get("Error") if isinstance(parsed_response, dict) else None
        code = text(error.get("Code")) if isinstance(error, dict) else None
        call.end(**_answer(response_dict), code=code)


def _host_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0].lower()


def _is_marked(host: str) -> bool:
    return host.endswith(_MARKED) and _UNMARKED.isdisjoint(labels_of(host))


def _answer(response: dict[str, Any]) -> dict[str, object]:
    status = response.get("status_code")
    headers = response.get("headers") or {}
    return {
        "status": status if isinstance(status, int) and status > 0 else None,
        "retry_after": text(headers.get("Retry-After")),
        "amz_retry_after": text(headers.get("x-amz-retry-after")),
    }


def _signed_by(credentials: Any) -> tuple[str | None, str | None]:
    """Return the ids of the access key and the account, as far as known without a refresh."""
    if credentials is None:
        return None, None
    own = vars(credentials)  # the properties of the refreshable ones refresh
    key = own.get("_access_key") or own.get("access_key")
    account = own.get("_account_id") or own.get("account_id") or _calls.role_account(credentials)
    return text(key), text(account)
