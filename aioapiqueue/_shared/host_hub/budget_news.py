"""Sends the clients of a quota how much of its budgets and calendar limits is used.

Every client is sent the use of the queue's own limits, and of the lanes of keys under which it has
called. So a client whose pattern matches thousands of tenants is not sent all of them.

A change is sent in the next pass of the loop, with all others of this step: so the process that
makes a call soon knows what that has used. Where changes are frequent, they are sent together, some
ten times a second. No timer runs while nothing changes.
"""

from __future__ import annotations

import heapq
import math
from itertools import islice
from typing import TYPE_CHECKING, Any

from aioapiqueue import Budget, Calendar
from aioapiqueue._shared.host.messages import text_of
from aioapiqueue._shared.host_hub.client_turns import ClientCall
from aioapiqueue._shared.statement_json import key_to
from aioapiqueue.spi import Follower

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Mapping

    from aioapiqueue import BudgetUse
    from aioapiqueue._shared.host_hub.exchange import QuotaClient
    from aioapiqueue._shared.host_hub.limiter import QuotaLimiter
    from aioapiqueue.spi import Call, Host, events, lane_states

_INTERVAL = 0.1
"""Seconds between two messages to a client, on average."""
_BURST = 3
"""Number of messages that need not be so far apart: the start, settlement and end of a call."""
_A_MESSAGE = 0.001
"""Seconds for each client of a quota that the interval has at least: so the hub sends at most 1,000
of these messages a second for one quota."""
_AT_ONCE = 200
"""Number of lanes in one message: some 2 milliseconds of work. The others are in the next one."""
_MOST_KEYS = 1000
"""Number of keys of one client whose lanes are followed: those that it called under last."""
_MOST_SHOWN = 300
"""Number of lanes whose use `hub status` shows."""


class BudgetNews(Follower):
    """Follows the calls of one quota, once any of its limits is a `Budget` or a `Calendar`.

    Args:
        host: the quota's dispatcher.
        limiter: has the states of its limits.
        clients: its clients.
    """

    __slots__ = (
        *("_changed", "_clients", "_host", "_keys_of"),
        *("_limiter", "_paced", "_sent", "_timer", "_were_reset"),
    )

    def __init__(
        self,
        host: Host,
        limiter: QuotaLimiter,
        clients: Mapping[QuotaClient, None],
    ) -> None:
        self._host = host
        self._limiter = limiter
        self._clients = clients
        self._keys_of: dict[QuotaClient, dict[Hashable, None]] = {}
        """The keys of each client whose lanes are followed."""
        self._sent: dict[Hashable, dict[QuotaClient, str | None]] = {None: {}}
        """By key (None: the queue's own limits), what its clients were sent last; None: nothing."""
        self._changed: dict[Hashable, None] = {}
        """The keys whose figures may have changed."""
        self._timer: asyncio.TimerHandle | None = None
        """Calls `_send`."""
        self._were_reset = False
        """Whether the next message is the first one after a reset."""
        self._paced = -math.inf
        """The instant at which the next messages would be due at an even pace."""
        for client in clients:
            self.add(client)

    # Clients.

    def add(self, client: QuotaClient) -> None:
        """Send a client the use of the queue's own limits, from the next call on."""
        # Not now: a client connects because it has calls, which may be charged in the next step.
        if client not in self._keys_of:
            self._keys_of[client] = {}
            self._sent[None][client] = None

    def forget(self, client: QuotaClient) -> None:
        """Send nothing more to a client, which has left."""
        for key in self._keys_of.pop(client, ()):
            self._unfollow(client, key)
        self._sent[None].pop(client, None)
        if not self._keys_of and self._timer is not None:  # no client is left to be sent anything
            self._timer.cancel()
            self._timer = None

    def _unfollow(self, client: QuotaClient, key: Hashable) -> None:
        clients = self._sent[key]
        del clients[client]
        if not clients:
            del self._sent[key]

    # What happens to calls. The figures are read only once all this is done.

    def note(self, call: Call) -> None:
        """Note that a call has changed what is used, or that it needs to know that."""
        assert isinstance(call, ClientCall)  # noqa: S101 - of the quota's own making
        client: QuotaClient = call.client  # type: ignore[assignment]  # as `HubQuota.enter` was given it
        followed = self._keys_of.get(client)
        if followed is None:  # it has left
            return
        self._mark(None)
        for key in call.keys:
            if key in followed:
                del followed[key]
                followed[key] = None  # the latest is the last
                self._mark(key)
            elif key is not None and self._has_budgets(key):
                followed[key] = None
                self._sent.setdefault(key, {})[client] = None
                self._mark(key)
                if len(followed) > _MOST_KEYS:
                    oldest = next(iter(followed))
                    del followed[oldest]
                    self._unfollow(client, oldest)

    def _has_budgets(self, key: Hashable) -> bool:
        limits = self._limiter.limits_of(key) or ()
        return any(isinstance(one, Budget | Calendar) for one in limits)

    def joined(self, call: Call) -> None:
        """Note a call that waits, perhaps for a budget."""
        self.note(call)

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - as of `Follower`
        """Note a call that is charged."""
        self.note(call)

    def ended(self, call: Call, raised: object) -> None:  # noqa: ARG002 - as of `Follower`
        """Note a call whose reservation has ended."""
        self.note(call)

    def refunded(self, call: Call) -> None:
        """Note a call whose charges come back."""
        self.note(call)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:  # noqa: ARG002 - as of `Follower`
        """Note a call whose cost has changed."""
        self.note(call)

    def happened(
        self,
        kind: events.EventKind,
        call: Call | None,
        key: Hashable,  # noqa: ARG002 - as of `Follower`
        **details: Any,  # noqa: ANN401, ARG002 - of `Event`, each of its own type
    ) -> None:
        """Note a call that was refused, perhaps because a budget is used up."""
        if kind == "refused" and call is not None:
            self.note(call)

    def note_all(self, *, were_reset: bool = False) -> None:
        """Note that limits have changed, or that all of them were reset; send all of them again."""
        self._were_reset |= were_reset
        # Again, even what looks the same: clients have forgotten the figures of former limits.
        for key, clients in self._sent.items():
            self._sent[key] = dict.fromkeys(clients, "")
            self._mark(key)

    # What is sent.

    def _mark(self, key: Hashable) -> None:
        self._changed[key] = None
        if self._timer is None:
            self._send_later()

    @property
    def _interval(self) -> float:
        return max(_INTERVAL, _A_MESSAGE * len(self._clients))

    def _send_later(self) -> None:
        loop = self._host.loop
        delay = self._paced - (_BURST - 1) * self._interval - loop.now()
        self._timer = loop.call_later(max(0, delay), self._send)

    def loop_changed(self, *, clock_changed: bool) -> None:  # noqa: ARG002 - as of `Follower`
        """Forget the timer of the loop that is closed."""
        self._timer, self._paced = None, -math.inf

    def _send(self) -> None:
        self._timer = None
        keys = list(islice(self._changed, _AT_ONCE))
        for key in keys:
            del self._changed[key]
        messages: dict[QuotaClient, list[str]] = {}
        for key in keys:
            self._add_to(messages, key)
        end, self._were_reset = ",true]" if self._were_reset else "]", False
        for client, parts in messages.items():
            client.send_text(f'["budgets",[{",".join(parts)}]{end}')
        if messages:
            self._paced = max(self._paced, self._host.loop.now()) + self._interval
        if self._changed:
            self._send_later()

    def _add_to(self, messages: dict[QuotaClient, list[str]], key: Hashable) -> None:
        """Add the figures of a key to the messages to the clients that do not know them."""
        clients = self._sent.get(key)
        if clients is None:  # all of them have left
            return
        budgets = budgets_of(self._limiter, key)
        part = text_of(key_to(key), budgets)  # once for all clients
        for client, before in clients.items():
            if before != part and (budgets or before is not None):
                messages.setdefault(client, []).append(part)
        if budgets or key is None:
            self._sent[key] = dict.fromkeys(clients, part if budgets else None)
            return
        for client in clients:
            del self._keys_of[client][key]
        del self._sent[key]


def budgets_of(limiter: QuotaLimiter, key: Hashable) -> Mapping[str, BudgetUse]:
    """Return the use of a key's lane, or (None) of the queue's own limits."""
    limiter.lanes.refresh(key)  # its limits may have changed since its last call
    return limiter.snapshot(key).budgets


def budgets_as_json(limiter: QuotaLimiter, now: float, *, lanes: bool) -> dict[str, Any]:
    """Return how much is used, for `hub status`: by key, and "" for the queue's own limits.

    Args:
        limiter: of the quota.
        now: the present instant.
        lanes: whether to include lanes: those that are used, the most used first.
    """
    keys: list[Hashable] = [None]
    if lanes:
        shares = ((_share_used(lane, now), key) for key, lane in limiter.lanes.by_key.items())
        # The key None cannot be asked for; and "" is the name of the queue's own limits here.
        used = (one for one in shares if one[0] and one[1] not in (None, ""))
        keys += [key for _, key in heapq.nlargest(_MOST_SHOWN, used, key=lambda one: one[0])]
    found = {"" if key is None else str(key): budgets_of(limiter, key) for key in keys}
    return {key: _as_json(budgets) for key, budgets in found.items() if budgets}


def _share_used(lane: lane_states.Lane, now: float) -> float:
    uses = [state.use(now) for state in lane.kept]
    return max((use.share for use in uses if use is not None), default=0)


def _as_json(budgets: Mapping[str, BudgetUse]) -> dict[str, Any]:
    return {
        limit: {"spent": use.spent, "reserved": use.reserved, "left": use.left}
        for limit, use in budgets.items()
    }
