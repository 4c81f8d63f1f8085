"""Exchanges decisions between a hub and its clients: each sends what the other lacks, once.

A client that connects states up to when it knows all decisions, and so does the hub; each sends
what is newer. After an outage, hundreds of clients that know the same may connect to a hub that
knows nothing. So the hub tells a client that it has what it has already asked other clients for.
Until that arrives, the hub is *behind* the client, whose next message is then not all that the hub
lacks. If it does not arrive, because a client is gone or stopped, the hub asks the next client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioapiqueue._shared.host.messages import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioapiqueue._shared.decisions import Decision, Decisions
    from aioapiqueue._shared.host_hub.grant import QuotaClient

__all__ = ["Exchange"]

_PATIENCE = 1.0
"""Seconds that the hub waits for what a client was asked for before it asks another one."""


@dataclass(slots=True)
class _Behind:
    """A client that has something which the hub lacks.

    Attributes:
        told: what it was told that the hub has, or will have.
        newest: what it has.
        due: number of answers that are still to come.
        late: whether others are not to wait for them.
    """

    told: Mapping[str, int]
    newest: dict[str, int]
    due: int = 1
    late: bool = False


class Exchange:
    """The decisions of one quota, and which client lacks what.

    Args:
        decisions: what the hub knows.
    """

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._behind: dict[QuotaClient, _Behind] = {}
        self._coming: dict[str, int] = {}
        """What clients were asked for."""
        self._timer: asyncio.TimerHandle | None = None

    def welcome(self, client: QuotaClient, newest: dict[str, int]) -> dict[str, int]:
        """Tell a newcomer what it lacks; return what it need not send.

        Args:
            client: which.
            newest: up to when it knows all.
        """
        known = self._decisions.newest()
        lacking = self._decisions.newer_than(newest)
        if lacking or not _has_all(newest, known):
            client.send_text(_text_of(lacking, known))
        if _has_all(known, newest):
            return known
        told = _later(known, self._coming)
        self._behind[client] = _Behind(told, newest)
        self._ask(newest)
        return told

    def _ask(self, newest: Mapping[str, int]) -> None:
        self._coming = _later(self._coming, newest)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._give_up)

    def receive(
        self,
        client: QuotaClient,
        decisions: Iterable[Decision],
        newest: Mapping[str, int],
        *,
        asked: bool,
    ) -> tuple[list[Decision], Mapping[str, int]]:
        """Note what a client has sent; return what is news, and of whom more is known now.

        Of each of these makers, that is up to when all is known. Clients have been told the rest;
        when hundreds answer, telling all of them of hundreds of makers each time would take long.

        Args:
            client: which.
            decisions: what it knows of.
            newest: up to when it knows all.
            asked: whether this is what it was asked for.
        """
        before = self._decisions.newest()
        behind = self._behind.get(client)
        news = self._decisions.merge(decisions, newest if behind is None else {})
        if behind is not None:
            behind.newest = _later(behind.newest, newest)
            behind.due -= asked
            if not behind.due:
                behind.late = False
                self._catch_up()
        now = self._decisions.newest()
        return news, {maker: at for maker, at in now.items() if at > before.get(maker, -1)}

    def _catch_up(self) -> None:
        """Note of whom nothing is lacking any more."""
        for client, one in list(self._behind.items()):  # each may only wait for earlier ones
            if not one.due and _has_all(self._decisions.newest(), one.told):
                self._decisions.merge((), one.newest)
                del self._behind[client]
        self._rest()

    def _rest(self) -> None:
        """Wait for nothing, if nothing is lacking."""
        if not self._behind:
            self._coming = {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def left(self, client: QuotaClient) -> None:
        """Note that a client is gone: others may have what it was to send."""
        gone = self._behind.pop(client, None)
        if gone is not None:
            self._ask_others()
            self._rest()

    def _give_up(self) -> None:
        """Wait no longer for those that have been asked for long."""
        self._timer = None
        for one in self._behind.values():
            one.late = one.due > 0
        self._ask_others()

    def _ask_others(self) -> None:
        self._coming = {}
        for client, one in self._behind.items():
            told = _later(self._decisions.newest(), self._coming)
            if not _has_all(told, one.told):
                one.told = told
                one.due += 1
                client.send("lacks", told)
            if one.due and not one.late:
                self._ask(one.newest)

    def tell(
        self,
        clients: Iterable[QuotaClient],
        news: Sequence[Decision],
        newest: Mapping[str, int],
        *,
        by: QuotaClient | None = None,
    ) -> None:
        """Tell clients what is decided, and up to when they know all then.

        Args:
            clients: all of them.
            news: what has been decided.
            newest: up to when they know all.
            by: who has told the hub; default: nobody, it is the hub's own.
        """
        text_of_all = _text_of(news, newest)
        for client in clients if news or newest else ():
            lacking, behind = news if client is not by else (), self._behind.get(client)
            if behind is not None:
                lacking = [one for one in lacking if not _has(behind.newest, one)]
            if lacking or newest:
                text = text_of_all if len(lacking) == len(news) else _text_of(lacking, newest)
                client.send_text(text)


def _text_of(decisions: Iterable[Decision], newest: Mapping[str, int]) -> str:
    return text_of("decided", [one.as_json() for one in decisions], newest)


def _has(newest: Mapping[str, int], decision: Decision) -> bool:
    return decision.stamp.at <= newest.get(decision.stamp.maker, -1)


def _has_all(newest: Mapping[str, int], others: Mapping[str, int]) -> bool:
    return all(newest.get(maker, -1) >= at for maker, at in others.items())


def _later(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Return the later instant of each maker."""
    return {maker: max(at, first.get(maker, -1)) for maker, at in {**first, **second}.items()}
