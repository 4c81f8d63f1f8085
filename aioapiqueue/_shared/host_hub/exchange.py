"""Exchanges decisions between a hub and its clients: each sends what the other lacks.

Both state, for each maker of decisions, up to when they know all (`Decisions.newest`), and send
what is newer. After an outage, hundreds of clients that know the same may connect to a hub that
knows nothing, and all of them send it. The hub reads only what is new to it by then, and passes it
on only to clients that did not know it when they connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.decisions import Decision
from aioapiqueue._shared.host.messages import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioapiqueue._shared.decisions import Decisions
    from aioapiqueue._shared.host_hub.grant import QuotaClient


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
        if at > known.get(maker, -1):
            found.append(Decision.from_json(one))
    return found


def welcome(client: QuotaClient, decisions: Decisions) -> None:
    """Send a newcomer what it lacks."""
    known, lacking = decisions.newest(), decisions.newer_than(client.newest)
    if lacking or not _has_all(client.newest, known):
        client.send_text(_text_of(lacking, known))


def broadcast(
    clients: Iterable[QuotaClient],
    news: Sequence[Decision],
    newest: Mapping[str, int],
    *,
    by: QuotaClient | None = None,
) -> None:
    """Send clients what has been decided.

    Args:
        clients: all of them.
        news: the new decisions.
        newest: by maker, the instant up to which a client knows all with these.
        by: the client that sent them; default: they are the hub's own.
    """
    text_of_all = _text_of(news, newest)
    for client in clients if news or newest else ():
        lacking = news if client is not by else ()
        if client.newest:
            lacking = [one for one in lacking if not _has(client.newest, one)]
        if lacking or not _has_all(client.newest, newest):
            all_of_it = len(lacking) == len(news)
            client.send_text(text_of_all if all_of_it else _text_of(lacking, newest))


def _text_of(decisions: Iterable[Decision], newest: Mapping[str, int]) -> str:
    return text_of("decided", [one.as_json() for one in decisions], newest)


def _has(newest: Mapping[str, int], decision: Decision) -> bool:
    return decision.stamp.at <= newest.get(decision.stamp.maker, -1)


def _has_all(newest: Mapping[str, int], others: Mapping[str, int]) -> bool:
    return all(newest.get(maker, -1) >= at for maker, at in others.items())
