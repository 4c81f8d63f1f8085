"""Reads responses while they are forwarded, for the hub: `ResponseWatch`.

The hub judges responses of AWS itself, like those that the hook in Python reports. Responses of
other hosts are read here, with the functions of the HTTP integrations, as early as possible.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from aioapiqueue.integrations.http import MAX_BODY, read_advice, reads_body
from aioapiqueue.integrations.spi import decoded
from aioapiqueue.spi import CALLS
from aioapiqueue_run.gateway.answers import code_of
from aioapiqueue_run.hub.spi import LONGEST_TEXT, as_message

if TYPE_CHECKING:
    from aioapiqueue_run.gateway.calls import ApiCall
    from aioapiqueue_run.gateway.hub_client import HubRequest

__all__ = ["ResponseWatch"]

_SNIFFED = 4096
"""Bytes of a response of AWS that are searched for an error code."""
_ERROR_BEGINS = 300
"""Bytes of a body in which S3's `<Error>` begins, if there is one."""
_ERROR = 400


class ResponseWatch:
    """Reads a response while it is forwarded.

    Args:
        call: the call that it answers. Default: none, if the request had no turn here.
        turn: the turn of the call, which gets the advice of the response. Default: none.
    """

    def __init__(self, call: ApiCall | None = None, turn: HubRequest | None = None) -> None:
        self._call = call
        self._turn = turn
        self._status = 0
        self._pairs: list[tuple[str, str]] = []
        self._headers: dict[str, str] = {}
        self._most = 0
        """Most bytes of the body that are kept."""
        self._body = bytearray()
        self.is_over = False
        """Whether the response has ended."""
        self.has_switched = False
        """Whether the connection goes on as a WebSocket."""

    @property
    def is_known(self) -> bool:
        """Whether the status is known, and suffices as the outcome. For AWS it does not."""
        return self._status != 0 and self._call is not None and not self._call.of_aws

    def take(self, event: h11.Event) -> None:
        """Read an event of the response."""
        if isinstance(event, h11.Response):
            self._head(event)
        elif isinstance(event, h11.Data):
            if len(self._body) < self._most:
                self._body += event.data[: self._most - len(self._body)]
        elif isinstance(event, h11.EndOfMessage):
            self.is_over = True
        elif (
            isinstance(event, h11.InformationalResponse)
            and event.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        ):
            self._head(event)
            self.is_over = self.has_switched = True

    def _head(self, response: h11.Response | h11.InformationalResponse) -> None:
        self._status = response.status_code
        self._pairs = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers
        ]
        self._headers = dict(self._pairs)
        if self._call is None:
            return
        if self._call.of_aws:
            self._most = _SNIFFED
        elif reads_body(self._status, self._pairs):
            self._most = MAX_BODY + 1  # one more, so that a longer body is noticed
        else:
            self._advise()

    def end(self) -> None:
        """Give the turn the advice of the response, if that needed the body.

        If the body has not arrived, the headers alone count.
        """
        if self.is_known:
            self._advise()

    @property
    def outcome(self) -> dict[str, object]:
        """The outcome of the request, in the form of the hub's protocol."""
        if self._call is None or not self._call.of_aws:
            return {"status": self._status}
        body = bytes(self._body)
        # S3 may respond with status 200 before it knows the outcome, as for CopyObject.
        error = self._status >= _ERROR or b"<Error>" in body[:_ERROR_BEGINS]
        return {
            "status": self._status,
            "code": code_of(self._headers, body) if error else None,
            "retry_after": self._headers.get("retry-after", "")[:LONGEST_TEXT] or None,
            "amz_retry_after": self._headers.get("x-amz-retry-after", "")[:LONGEST_TEXT] or None,
        }

    def _advise(self) -> None:
        turn, self._turn = self._turn, None  # it gets advice once
        if turn is None:
            return
        encoding = self._headers.get("content-encoding", "")
        body = decoded(bytes(self._body), encoding, MAX_BODY) if self.is_over else None
        advice = read_advice(
            self._status, self._pairs, now=time.time(), costs={CALLS: 1}, body=body
        )
        # Also sent if it is empty: so the hub knows early that a long response has begun.
        turn.advise(as_message(advice))
