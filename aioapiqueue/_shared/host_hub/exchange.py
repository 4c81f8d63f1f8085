"""What a quota calls on its clients, and how it exchanges decisions with them.

The hub and a client send each other the decisions that the other one lacks. Each states, for every
maker of decisions, the instant up to which it knows all (`Decisions.newest`), and receives what is
newer. After an outage, hundreds of clients that know the same decisions may connect to a hub that
knows none, and all of them send theirs. The hub reads only decisions that are still new to it, and
passes them on only to clients that did not know them when they connected.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._shared.decisions import Decision
from aioapiqueue._shared.host.messages import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioapiqueue._shared.decisions import Decisions
    from aioapiqueue._shared.host.messages import Terms
    from aioapiqueue._shared.host_hub.client_turns import ClientCall


class QuotaClient(Protocol):
    """What a quota calls on each of its clients."""

    terms: Terms
    whose: str
    """The program and its process."""
    newest: Mapping[str, int]
    """By maker, the instant up to which it knew all decisions when it connected."""
    lateness: float
    """Seconds after which the client no longer uses a grant, but returns it."""

    def __hash__(self) -> int:
        """Return its hash: quotas keep their clients in dictionaries."""

    @property
    def waiting(self) -> int:
        """Number of its calls that wait."""

    def granted(self, call: ClientCall) -> None:
        """Start a call."""

    def refused(self, call: ClientCall, error: BaseException) -> None:
        """Report to the client that a call will never start."""

    def entered(self, call: ClientCall) -> None:
        """Note that a call waits again, under other limits."""

    def backed_off(self, call: ClientCall) -> None:
        """Note that the rate was lowered because a call was throttled."""

    def send_rate(self) -> None:
        """Send the client its rate after slow-downs, if it has changed."""

    def send_names(self) -> None:
        """Send the client the keys and patterns that have limits, if they have changed."""

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message by the end of this pass of the loop."""

    def send_text(self, text: str) -> None:
        """Send the text of a message by the end of this pass of the loop."""

    def flush(self) -> None:
        """Send now what has been queued."""


class PendingGrant(asyncio.Future[Any]):
    """The future of a waiting call; it informs the client of the outcome.

    Args:
        call: the call that waits.
        client: the client that made it.
        loop: the running event loop.
    """

    def __init__(
        self, call: ClientCall, client: QuotaClient, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self._call = call
        self._client = client

    def set_result(self, result: Any) -> None:  # noqa: ANN401 - as asyncio.Future's
        super().set_result(result)
        # Not by a callback, which would run in the loop's next pass: the grants of this step are
        # sent together at its end.
        self._client.granted(self._call)

    def set_exception(self, exception: Any) -> None:  # noqa: ANN401 - as asyncio.Future's
        self.cancel()  # it is never awaited: asyncio would report the exception as never retrieved
        self._client.refused(self._call, exception)


def read_unknown(sent: Iterable[Sequence[Any]], decisions: Decisions) -> list[Decision]:
    """Read the decisions in a message that are not known yet.

    Args:
        sent: decisions as `Decision.as_json` has them.
        decisions: those that are known.

    Raises:
        TypeError, ValueError, KeyError: as `Decision.from_json`.
    """
    known, found = decisions.newest(), []
    for one in sent:
        at, maker, *_ = one
        # Parsing costs more than this comparison, and after an outage most of them are known.
        if at > known.get(maker, -1):
            found.append(Decision.from_json(one))
    return found


def welcome(client: QuotaClient, decisions: Decisions) -> None:
    """Send a new client what it lacks."""
    known, lacking = decisions.newest(), decisions.newer_than(client.newest)
    if lacking or not _has_all(client.newest, known):
        client.send_text(_text_of(lacking, known))


def broadcast(
    clients: Iterable[QuotaClient],
    decisions: Sequence[Decision],
    newest: Mapping[str, int],
    *,
    by: QuotaClient | None = None,
) -> None:
    """Send clients what has been decided.

    Args:
        clients: all of them.
        decisions: those that are new to the hub.
        newest: by maker, the instant up to which a client knows all with these.
        by: the client that sent them; default: they are the hub's own.
    """
    text_of_all = _text_of(decisions, newest)  # once: most clients lack all of it
    for client in clients if decisions or newest else ():
        # The sender has them, but may not know yet that it now knows all up to `newest`.
        lacking = decisions if client is not by else ()
        if client.newest:
            lacking = [one for one in lacking if not _has(client.newest, one)]
        if lacking or not _has_all(client.newest, newest):
            all_of_it = len(lacking) == len(decisions)
            client.send_text(text_of_all if all_of_it else _text_of(lacking, newest))


def _text_of(decisions: Iterable[Decision], newest: Mapping[str, int]) -> str:
    return text_of("decided", [one.as_json() for one in decisions], newest)


def _has(newest: Mapping[str, int], decision: Decision) -> bool:
    return decision.stamp.at <= newest.get(decision.stamp.maker, -1)


def _has_all(newest: Mapping[str, int], others: Mapping[str, int]) -> bool:
    return all(newest.get(maker, -1) >= at for maker, at in others.items())
