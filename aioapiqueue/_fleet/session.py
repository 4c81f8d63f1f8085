"""Talking to an authority that keeps one quota for many queues: what is said, and all trouble.

One task talks, while there is something to say. What has happened here (`say`) goes first, in its
order; then it asks for what is wanted. Whoever loses sight of the authority waits.
"""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from abc import abstractmethod
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aioapiqueue._fleet.leases import Clock
from aioapiqueue._lanes import limit_state_for
from aioapiqueue._slot import Slot
from aioapiqueue.exceptions import SharedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._dispatcher import Dispatcher
    from aioapiqueue._events import EventKind
    from aioapiqueue._rate import Limit, Rate

__all__ = ["AGAIN", "EARLY", "NOW", "Answer", "Link", "State", "Talk", "Unreachable"]

NOW = 2**53
"""Instead of an instant: whenever it is heard."""
EARLY = 1e-9
"""Seconds: what sums of floats may be off by."""
AGAIN = 5.0
"""Seconds after which nothing is given back that may have been given back already."""
_BACKOFF = (0.05, 2.0)
_MUCH_TO_SAY = 1000
_ROUNDS = 10
"""Answers in a row about limits alone: each has been set by others since the one before."""
_SAY_PLACES = ("renew", "adjust", "return")
_ALWAYS_SAID = ("set", "pause", "resume")
_LASTING = (*_ALWAYS_SAID, "hold")
_NUMBERED = ("adjust", "return", "push", "leave")


class Unreachable(Exception):  # noqa: N818 - never leaves the library
    """The authority gave no answer, for now. The text says why, without credentials."""


class State(NamedTuple):
    """How things stand, by every answer; instants are the authority's own, in microseconds.

    Attributes:
        held: until when all are held; -1: without end; 0: they are not.
        ready: when the limits have the next slot; 0: nobody knows.
        rate: calls per second that push-back has left; inf: whatever the limits say.
        lanes: the same, of each lane that was spoken of.
    """

    held: int
    ready: int
    rate: float
    lanes: Sequence[State] = ()


class Answer(NamedTuple):
    """What the authority says to a request for slots; instants are its own, in microseconds.

    Attributes:
        fair: how many slots this member may ask for at once.
        turn: when to ask again for what was not given; 0: when what was given is nearly used up;
            -1: when a place may be free.
        slots: (number of the want, instant, until when it may be used), in order.
        turns: (number of the lane, its turn, when to ask for it) of lanes that are due later.
    """

    fair: int
    turn: int
    slots: Sequence[tuple[int, int, int]]
    turns: Sequence[tuple[int, int, int]]


class Link(Protocol):
    """The way to an authority, for one queue."""

    timeout: float
    """Seconds that an answer may take."""
    ahead: float
    """Seconds by which slots are taken ahead of their time, at most."""
    lease: float
    """Seconds for which a place is kept for one who has gone silent."""
    fallback: Rate | None
    """The local rate meanwhile."""

    def check(self, lane: Hashable) -> None:
        """Refuse the key of a lane that the authority could not be told of.

        Raises:
            TypeError: it has no text of its own.
        """

    async def send(
        self,
        member: Talk,
        verb: str,
        lanes: Sequence[Hashable],
        fields: Mapping[str, Any],
    ) -> tuple[Any, ...]:
        """Say or ask something.

        What has a number (`said`) counts once, however often it is sent within some seconds.

        Returns:
            ("ok", instant, epoch, State, the answer...); ("conf", revision, limits) where others
            have set limits that this member does not know; ("tell",) where it knows of some that
            the authority does not.

        Raises:
            Unreachable: no answer for now.
            SharedError: the authority refuses, and will until somebody does something about it.
        """


class Talk:
    """One queue's side of the talk.

    Args:
        queue: whose callers wait.
        link: to the authority.
        catch_up: seconds by which a slot may be used late; later it is lost.
    """

    def __init__(self, queue: Dispatcher, link: Link, *, catch_up: float) -> None:
        self.queue = queue
        self.link = link
        self.catch_up = catch_up
        self.asks = self.faults = 0
        self.fault = ""
        self.told: dict[Hashable, tuple[Limit, ...]] = {}
        """What `set_rate` has said, here or elsewhere, by lane; None: of the queue itself."""
        self.rev = 0
        """Of what was told."""
        self._talk_anew()

    def _talk_anew(self) -> None:
        self.me = uuid.uuid4().hex[:16]
        self._clock = Clock()
        self._epoch = 0
        self._delay = 0.0
        self._retry_at = -math.inf
        """After trouble, nothing is said or asked before."""
        self._closed = False
        self._outbox: deque[tuple[str, dict[str, Any]]] = deque()
        self._said = 0
        """How much there was that is to count once, however often it arrives."""
        self._under_way = False
        """The first in the outbox is: what happens from now on, it cannot say."""
        self._task: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._fallback: LimitState | None = None
        self._spare: LimitState | None = None
        """What `_fallback` is each time: it knows what it has let through before."""

    @property
    @abstractmethod
    def permits(self) -> int:
        """How many bodies this member has running, or may start without asking."""

    @abstractmethod
    async def _ask(self) -> bool:
        """Ask for what is wanted; return False if nothing is."""

    @abstractmethod
    async def _say(self, verb: str, fields: dict[str, Any]) -> None:
        """Say one thing, and heed the answer."""

    @abstractmethod
    def _note(self, state: State, lanes: Sequence[Hashable]) -> None:
        """Note how things stand, in general and in these lanes."""

    @abstractmethod
    def _forget_leases(self) -> None:
        """Forget what was leased: the authority has forgotten it."""

    @abstractmethod
    def _give_back_all(self) -> None:
        """Give back what is leased."""

    def say(self, verb: str, **fields: Any) -> None:  # noqa: ANN401 - as each verb has it
        """Say something to the authority, after what was said before; nothing once closed."""
        if self._closed:
            return
        if verb in _NUMBERED:
            self._said += 1
            fields["said"] = self._said
        if verb in _LASTING:
            self._supersede(verb, fields)
        if len(self._outbox) < _MUCH_TO_SAY or verb in _ALWAYS_SAID:
            self._outbox.append((verb, fields))
        if self.queue._loop is not None and self.queue._loop_runs():
            self._start()

    def _supersede(self, verb: str, fields: dict[str, Any]) -> None:
        """Drop what need not be said any more, as this is: trouble may last, and users go on."""
        left: deque[tuple[str, dict[str, Any]]] = deque()
        for number, said in enumerate(self._outbox):
            one, of = said
            if number < self._under_way:
                needless = False
            elif verb == "resume":
                needless = one in ("pause", "resume")
            elif verb == "set":
                needless = one == verb and of["key"] == fields["key"]
            else:
                needless = one == verb and of.get("lane") == fields.get("lane")
                if needless:  # a hold is never shortened
                    fields["until"] = max(of["until"], fields["until"])
            if not needless:
                left.append(said)
        self._outbox = left

    def say_places(self) -> None:
        """Say how many places this member has, unless something will that is to be said anyway."""
        if len(self._outbox) <= self._under_way or self._outbox[-1][0] not in _SAY_PLACES:
            self.say("renew")

    def _start(self) -> None:
        loop = self.queue._loop
        if self._task is None and loop is not None:
            # An empty context, as the ticker's: it keeps nobody's variables alive.
            task = loop.create_task(self._talk(), name="aioapiqueue leases", context=Context())
            if not task.done():  # an eager one may be
                self._task = task
                task.add_done_callback(self._talked, context=Context())

    def _talked(self, task: asyncio.Task[None]) -> None:
        """Heed the end of a task that was cancelled before it began: it has not done so itself."""
        if self._task is task:
            self._task = None
            self.queue._nudge()

    async def _talk(self) -> None:
        try:
            while await self._step():
                pass
        except Unreachable as error:
            self._lost(str(error))
        except SharedError as error:
            self._keep_lasting()
            self._refused(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody is to wait for ever
            self.queue._report(f"{self.link!r} failed", error)
            self._outbox.clear()  # what cannot be said at all would be in the way for ever
            self._refused(SharedError(f"{self.link!r} failed: {error!r}"))
        finally:
            # Cancelled by somebody who cancels every task: what was to be said waits for the next
            # occasion; an answer that was under way is lost, with the slots in it.
            self._task = None
            self.queue._nudge()

    async def _step(self) -> bool:
        """Say or ask one thing; return whether there may be another."""
        delay = self._retry_at - self.queue._clock()
        if delay > EARLY:
            if self._outbox:  # nobody need wait who would have it tried again
                self._set_timer("outbox", delay, self._start)
            return False
        if self._outbox:
            said = self._outbox[0]
            said[1].setdefault("sent", self.queue._clock())
            self._under_way = True
            try:
                await self._say(said[0], dict(said[1]))
            finally:
                self._under_way = False
            if self._outbox and self._outbox[0] is said:
                self._outbox.popleft()
            return True
        if self._fallback is not None:
            await self._exchange("renew")
            return True
        return await self._ask()

    async def _exchange(
        self,
        verb: str,
        lanes: Sequence[Hashable] = (),
        **fields: Any,  # noqa: ANN401 - as each verb has it
    ) -> tuple[Any, ...]:
        """Say or ask something until it has been understood; return the answer.

        Raises:
            Unreachable: no answer for now; or others set limits each time before it is heard.
            SharedError: the authority refuses, or disagrees about the limits whatever is said.
        """
        again = False
        for _ in range(_ROUNDS):
            sent = self.queue._clock()
            if again:
                word, *rest = await self._send("set", (), {"again": True})
            else:
                word, *rest = await self._send(verb, lanes, fields)
            if word == "conf" and rest[0] > self.rev:  # others have set limits meanwhile
                self._adopt(*rest)
            elif word == "tell" and not again:  # the authority has forgotten them
                again = True
            elif word != "ok":
                self.faults += 1
                raise SharedError(
                    f"{self.link!r}: the server has other limits than it has just said or heard. "
                    "Find out what else writes to its keys, then delete them"
                )
            elif again:
                again = False
            else:
                break
        else:
            self.faults += 1
            raise Unreachable("others set limits more often than an answer takes")
        instant, epoch, state, *answer = rest
        self._clock.heard(sent, self.queue._clock(), instant)
        if epoch != self._epoch:  # it knows nothing of what it leased before
            self._epoch = epoch
            self._forget_leases()
        if verb == "set":
            self.rev = answer[0]
        self._note(state, lanes)
        self._delay, self._retry_at = 0.0, -math.inf
        if self.fault:
            self.fault, self._fallback = "", None
            self._tell("restored")
        return tuple(answer)

    async def _send(
        self, verb: str, lanes: Sequence[Hashable], fields: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        if self._closed:  # cancelled, too: a client may swallow that, and go on as if it were not
            raise asyncio.CancelledError
        self.asks += 1
        try:
            return await self.link.send(self, verb, lanes, fields)
        except (Unreachable, SharedError):
            self.faults += 1
            raise

    def _adopt(self, rev: int, told: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Take over the limits that others have set."""
        queue = self.queue
        unsaid = {fields["key"] for verb, fields in self._outbox if verb == "set"}
        changed = {
            key: own
            for key, own in told.items()
            if self.told.get(key) != own and key not in unsaid  # what is said last holds
        }
        self.rev = rev
        self.told.update(changed)
        for key, limits in changed.items():
            queue._set_limits(key, limits)
        for slot in list(queue._waiters) if changed else ():
            try:
                queue._schedule.check(slot.cost)
                lane = queue._lanes.states.get(slot.key)
                if lane is not None:
                    lane.check(slot.cost)
            except ValueError as error:
                queue._fail(slot, "refused", error)

    # Trouble, and the end.

    def _lost(self, why: str, *, refused: bool = False) -> None:
        now = self.queue._clock()
        first, self.fault = not self.fault, why
        self._delay = min(_BACKOFF[1], max(_BACKOFF[0], 2 * self._delay))
        delay = self._delay * random.uniform(0.5, 1)  # noqa: S311 - so that not all come at once
        self._retry_at = now + delay
        if refused:  # no case for the fallback: what is wrong will not pass by itself
            self._fallback = None
        elif self.link.fallback is not None and self._fallback is None:
            if self._spare is None:
                self._spare = limit_state_for([self.link.fallback], catch_up=self.catch_up)
            self._fallback = self._spare
            self._fallback.on_idle(now)
            self.queue._waiters.wake_all()
        if self._outbox:
            self._set_timer("outbox", delay, self._start)
        if first:
            self._tell("lost")

    def _keep_lasting(self) -> None:
        """Keep of what is to be said what users have said, for when somebody has put it right.

        Not holds of lanes: a lane may be refused for itself, and would be in everybody's way.
        """
        now, kept, self._outbox = self.queue._clock(), self._outbox, deque()
        for verb, fields in kept:
            if verb in ("hold", "push") and fields["lane"] is None:
                if fields.get("until", now) > now:  # of a push-back, for how long it holds all
                    hold = {"lane": None, "until": fields["until"]}
                    self._supersede("hold", hold)
                    self._outbox.append(("hold", hold))
            elif verb in _ALWAYS_SAID and fields.get("until", math.inf) > now:
                self._outbox.append((verb, fields))

    def _refused(self, error: SharedError) -> None:
        self._lost(str(error), refused=True)
        for slot in list(self.queue._waiters):
            self.queue._fail(slot, "refused", error)

    def _beat(self) -> None:
        """Renew the lease of the places that this member holds."""
        if self.queue.running and not self.queue._closed:
            self.say_places()
            self._set_timer("heart", self.link.lease / 3, self._beat)

    def _set_timer(self, name: str, delay: float, action: Callable[[], None]) -> None:
        if name not in self._timers and self.queue._loop is not None:

            def run() -> None:
                del self._timers[name]
                action()

            self._timers[name] = self.queue._loop.call_later(delay, run)

    def _tell(self, kind: EventKind) -> None:
        if self.queue._observers:
            self.queue._tell(kind, Slot(self.queue, None, 0, 0))

    async def aclose(self) -> None:
        """Say what is left to say, and that this member is gone.

        Takes one time-out of the link's at most; and as much again if a request ends late although
        it is cancelled. Bodies that go on keep their places until their lease is up. Cancelled,
        says nothing more, and leaves no task behind that would.
        """
        try:
            if self._epoch:
                self._give_back_all()
                self.say("renew" if self.queue.running else "leave")
                if self._task is not None:
                    await asyncio.wait([self._task], timeout=self.link.timeout)
            self._closed = True
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task], timeout=self.link.timeout)
        finally:  # cancelled or not
            self._closed = True
            for timer in self._timers.values():
                timer.cancel()
            self._timers = {}
            if self._task is not None:
                self._task.cancel()
