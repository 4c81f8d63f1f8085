"""`SharedSchedule`: the messages of one quota, as they go to the server and come back."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from aioapiqueue._fleet.leases import NO_KEY
from aioapiqueue._fleet.limiter import Member
from aioapiqueue._fleet.session import AGAIN, State, Unreachable
from aioapiqueue._rate import LONGEST, Rate, Window, as_limit, positive
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import SharedError

try:
    import redis
    from redis import exceptions as errors
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise ImportError(
        "aioapiqueue.integrations.redis needs redis-py: pip install 'aioapiqueue[redis]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Hashable, Mapping, Sequence

    from aioapiqueue._dispatcher import Dispatcher
    from aioapiqueue._fleet.session import Talk
    from aioapiqueue._lanes import AdaptivePolicy
    from aioapiqueue._rate import Limit

__all__ = ["SharedSchedule"]

_SCRIPT = "\n".join(
    (files(__package__) / f"{part}.lua").read_text("utf-8")
    for part in ("gcra_figures", "gcra_limits", "gcra")
)
_UNREADABLE = re.compile(r"UNREADABLE (.*) UNREADABLE", re.DOTALL)
"""What the script says where it reads a figure that it never writes."""
_REFUSALS = (
    errors.AuthenticationError,
    errors.AuthenticationWrongNumberOfArgsError,
    errors.AuthorizationError,
    errors.NoPermissionError,
)
_PASSING = (
    errors.OutOfMemoryError,
    errors.ReadOnlyError,
    errors.ClusterError,
    errors.TryAgainError,
    errors.AskError,  # a MovedError is one
)
_PASSING_CODES = ("BUSY", "LOADING", "MISCONF", "NOREPLICAS", "UNBLOCKED")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class _Client(Protocol):
    """What is used of a redis-py client: redis.asyncio's `Redis` and `RedisCluster` have it."""

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]: ...  # noqa: ANN401 - as redis-py has it

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]: ...  # noqa: ANN401 - as above


class SharedSchedule:
    """Keeps the limits of a queue together with all others of this name on the same server.

        from redis.asyncio import Redis

        client = Redis.from_url("rediss://user:password@quota.example:6379/0")
        queue = ApiQueue("20/s", schedule=SharedSchedule(client, "ec2 eu-west-1 111122223333"))

    Every limit and lane holds for all of them, and so do `concurrency`, `adaptive`, `set_rate`,
    `pause` and push-back: who says something says it for all, who hears within a second. Who
    goes first (`priority`, `order`) is decided in each queue, for its own callers; between
    queues, each has its turn. All of them are to be given the same limits.

    While the server cannot be reached, calls wait, and the queue tries again (after 0.025 to 2
    seconds, at random); `stats.fault` says why. Where it refuses (a wrong password), callers get
    `SharedError`.

    `try_slot` of such a queue always raises `WouldWait`, as the server has to be asked.

    Args:
        client: of redis-py: `redis.asyncio.Redis`, `redis.asyncio.RedisCluster`, or what a
            Sentinel's `master_for` returns. It stays yours to close, after the queue.
        name: of the quota. Its keys all begin with `{aioapiqueue:NAME}`, lie in one slot of a
            cluster, and expire.
        ahead: seconds by which a queue takes slots ahead of their time, for callers that wait
            already; 0.2 by default. What is longer saves round trips; what is taken is lost if
            the process dies, and not reached by a pause elsewhere.
        timeout: seconds for one answer, 1.0 by default.
        lease: seconds after which the places (`concurrency`) of a process that died or went
            silent are free again, 10 by default.
        fallback: the rate of this queue alone while the server cannot be reached; default: its
            calls wait.

    Raises:
        TypeError: a value of a kind that makes no sense.
        ValueError: a number that makes no sense, or a name that is empty or has no UTF-8 form.
    """

    def __init__(
        self,
        client: _Client,
        name: str,
        *,
        ahead: float = 0.2,
        timeout: float = 1.0,
        lease: float = 10.0,
        fallback: str | Rate | None = None,
    ) -> None:
        if isinstance(client, redis.Redis | redis.RedisCluster) or not hasattr(client, "evalsha"):
            # Its type only: where a URL is given instead, there is a password in it.
            kind = f"{type(client).__module__}.{type(client).__qualname__}"
            raise TypeError(f"client takes a client of redis.asyncio, not a {kind}")
        if not isinstance(name, str):
            raise TypeError(f"name takes a string, not {name!r}")
        if not name or "}" in name:
            raise ValueError(f"name must be some text without a brace, not {name!r}")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"name must be text that has a UTF-8 form, not {name!r}: of bytes that are none, "
                'make one by decode("utf-8", "replace")'
            ) from None
        positive(ahead, of="ahead", least=0, most=LONGEST)
        positive(timeout, of="timeout", most=LONGEST)
        positive(lease, of="lease", most=LONGEST)
        limit = None if fallback is None else as_limit(fallback)
        if isinstance(limit, Window):
            raise TypeError(f"fallback takes a rate, not a window: {limit}")
        self._client = client
        self.name = name
        self.ahead = ahead
        self.timeout = timeout
        self.lease = lease
        self.fallback = limit
        self._adaptive: Adaptive | None = None
        self._catch_up = 0.0
        self._joined = False

    def join(
        self, queue: Dispatcher, *, catch_up: float, adaptive: AdaptivePolicy | None
    ) -> Member:
        """Return the part of `queue` in the quota; called by `ApiQueue`.

        Raises:
            RuntimeError: another queue has it already.
            TypeError: an `Adaptive` with a curve of its own, which the server does not know.
        """
        if self._joined:
            raise RuntimeError(f"{self!r} is in use: make one for each queue, of the same name")
        if adaptive is not None and (
            not isinstance(adaptive, Adaptive) or type(adaptive).regrow is not Adaptive.regrow
        ):
            raise TypeError(
                f"{adaptive!r} has a curve of its own, which the server does not know: a shared "
                "schedule takes a plain Adaptive"
            )
        self._joined = True
        self._adaptive = adaptive
        self._catch_up = catch_up
        return Member(queue, self, catch_up=catch_up)

    def __repr__(self) -> str:
        return f"SharedSchedule({self.name!r})"

    def check(self, lane: Hashable) -> None:
        """Refuse the key of a lane that has no text.

        Raises:
            TypeError: it is neither text nor a number nor a tuple of them.
        """
        if not isinstance(lane, str):
            _text(lane)

    async def send(
        self, member: Talk, verb: str, lanes: Sequence[Hashable], fields: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Say or ask something; see `aioapiqueue._fleet.session.Link`."""
        keys, payload = self._wire(member, verb, lanes, fields)
        arguments = [*keys, verb, "", json.dumps(payload, allow_nan=False)]
        try:
            # Cancelled here, or too late: redis-py gives up the connection, and what the server
            # has granted is lost. It is never granted twice.
            async with asyncio.timeout(self.timeout):
                try:
                    answer = await self._client.evalsha(_SHA, len(keys), *arguments)
                except errors.NoScriptError:  # a server that has just started
                    answer = await self._client.eval(_SCRIPT, len(keys), *arguments)
        except _REFUSALS as error:
            raise self._refusal(keys[0], error) from None
        except TimeoutError:
            await self._look_closer(keys[0])
            raise Unreachable(f"no answer within {self.timeout:g} s") from None
        except errors.ResponseError as error:
            raise self._objection(keys[0], error) from None
        except errors.RedisClusterException as error:  # no RedisError: none of its nodes will do
            raise self._no_node(keys[0], error) from None
        except (errors.RedisError, OSError) as error:
            raise Unreachable(_why(error)) from None
        return self._read(keys[0], answer)

    def _objection(self, keys: str, error: errors.ResponseError) -> SharedError | Unreachable:
        """Return what it means that the server, or the script on it, refuses to answer."""
        if found := _UNREADABLE.search(str(error)):
            return self._planted(found[1])
        if isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES):
            return Unreachable(_why(error))
        if "no permission" in str(error):  # for a command that the script uses
            return self._refusal(keys, error)
        return SharedError(f"{self!r}: the server cannot do this ({_why(error)})")

    def _planted(self, what: str) -> SharedError:
        return SharedError(
            f"{self!r}: {what}. That is not written by aioapiqueue: find out what else writes "
            "there, then delete that key (DEL)"
        )

    def _refusal(self, keys: str, error: BaseException) -> SharedError:
        return SharedError(
            f"{self!r}: the server refuses this user; check name, password and permission for "
            f"EVALSHA, EVAL and the keys {keys}* ({_why(error)})"
        )

    def _no_node(self, keys: str, error: Exception) -> SharedError | Unreachable:
        """Return what is wrong with a cluster; where it refuses us, it looks like anything else."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _REFUSALS):
            cause = cause.__cause__ or cause.__context__
        return Unreachable(_why(error)) if cause is None else self._refusal(keys, cause)

    async def _look_closer(self, keys: str) -> None:
        """Raise if it is a refusal that a client retries in vain until the time is up."""
        pool = getattr(self._client, "connection_pool", None)
        if pool is None:
            return
        connection = pool.make_connection()
        connection.retry = Retry(NoBackoff(), 0)
        try:
            async with asyncio.timeout(self.timeout / 2):
                await connection.connect()
        except _REFUSALS as error:
            raise self._refusal(keys, error) from None
        except (errors.RedisError, OSError) as error:  # a TimeoutError is an OSError
            if str(error):  # the client tries again, and would not say why
                raise Unreachable(_why(error)) from None
        finally:
            await connection.disconnect()

    def _wire(
        self, member: Talk, verb: str, lanes: Sequence[Hashable], fields: Mapping[str, Any]
    ) -> tuple[list[str], dict[str, Any]]:
        """Return the keys and the payload of a message, as gcra.lua reads them."""
        queue = member.queue
        base = f"{{aioapiqueue:{self.name}}}"
        keys = [base, f"{base}:who", f"{base}:places"]
        concurrency = queue._concurrency  # noqa: SLF001 - the member's own queue
        payload: dict[str, Any] = {
            "me": member.me,
            "rev": member.rev,
            "catch_up": _micro(self._catch_up),
            "ahead": _micro(self.ahead),
            "lease": _micro(self.lease),
            "places": -1 if concurrency == math.inf else concurrency,
            "running": member.permits,
        }
        known = queue._lanes  # noqa: SLF001 - as above
        turns, waited = fields.get("turns"), fields.get("waited")
        specs = []
        for number, lane in enumerate((None, *lanes)):
            own = None if lane is NO_KEY else lane
            key = base if lane is None else f"{base}:lane:{_text(own)}"
            if lane is not None:
                keys.append(key)
            limits = (queue._limits if lane is None else known.limits_of(own)) or ()  # noqa: SLF001 - as above
            spec = {
                "key": 1 if lane is None else len(keys),
                "limits": self._limits(limits, key, keys),
            }
            if turns and waited:
                spec |= {"turn": turns[number], "waited": _micro(waited[number])}
            specs.append(spec)
        payload["queue"], *payload["lanes"] = specs
        rest = {key: value for key, value in fields.items() if key not in ("turns", "waited")}
        for key in ("seconds", "lead", "late"):
            if rest.get(key, 0) > 0:
                rest[key] = _micro(rest[key])
        if "said" in rest:
            keys.append(f"{base}:said:{member.me}")
            kept = AGAIN + 2 * self.timeout  # on its way by then, and a little
            rest["said"] = [len(keys), rest["said"], _micro(kept)]
        if verb == "set":
            rest["conf"] = json.dumps(
                [[_text(key), [_plain(one) for one in own]] for key, own in member.told.items()]
            )
        return keys, payload | rest

    def _limits(self, limits: Sequence[Limit], key: str, keys: list[str]) -> list[dict[str, Any]]:
        specs: list[dict[str, Any]] = []
        windows = itertools.count()  # as the server counts: other limits take over by kind
        for limit in limits:
            if isinstance(limit, Rate):
                specs.append({"kind": "r", "interval": limit.interval * 1e6, "burst": limit.burst})
            else:
                keys.append(f"{key}:window:{next(windows)}")
                specs.append(
                    {"kind": "w", "calls": limit.calls, "per": _micro(limit.per), "log": len(keys)}
                )
        adaptive = self._adaptive
        if adaptive is not None:
            ceiling = min((limit.calls / limit.per for limit in limits), default=math.inf)
            specs.append(
                {
                    "kind": "g",
                    "ceiling": -1 if ceiling == math.inf else ceiling,
                    "floor": adaptive.least(ceiling),
                    "backoff": adaptive.backoff,
                    "recovery": adaptive.recovery,
                    "concurrency": adaptive.concurrency or False,
                }
            )
        return specs

    def _read(self, keys: str, answer: Sequence[Any]) -> tuple[Any, ...]:
        """Return an answer with its texts decoded, and what belongs together together.

        Raises:
            SharedError: somebody else has written the limits that it brings.
        """
        word, *rest = answer
        word = _decoded(word)
        if word == "conf":
            rev, conf = rest
            try:
                told = {
                    _key(key): tuple(_limit(one) for one in own)
                    for key, own in json.loads(_decoded(conf))
                }
            except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
                what = f"{keys} has limits (conf) that are none: {type(error).__name__}: {error}"
                raise self._planted(what[:300]) from None
            return word, rev, told
        if word != "ok":
            return (word,)
        now, epoch, held, ready, rate, others, *found = rest
        each = zip(others[::3], others[1::3], others[2::3], strict=True)
        state = _state(held, ready, rate, lanes=[_state(*one) for one in each])
        if len(found) > 1:
            fair, turn, slots, turns = found
            given = list(zip(slots[::3], slots[1::3], slots[2::3], strict=True))
            later = list(zip(turns[::3], turns[1::3], turns[2::3], strict=True))
            found = [fair, turn, given, later]
        return word, now, epoch, state, *found


def _micro(seconds: float) -> int:
    return round(seconds * 1e6)


def _decoded(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode()


def _state(held: int, ready: int, rate: bytes | str, lanes: Sequence[State] = ()) -> State:
    allowed = float(_decoded(rate))
    return State(held, ready, math.inf if allowed < 0 else allowed, lanes)


def _why(error: BaseException) -> str:
    """Return an error in words, without what was sent: a server that knows no AUTH quotes it."""
    text = str(error).partition(", with args beginning with")[0]
    return f"{type(error).__name__}: {text}"


def _text(key: Hashable) -> str:
    """Return a lane's key as text that is the same in every process.

    Raises:
        TypeError: there is none.
    """
    try:
        return json.dumps(key)
    except (TypeError, ValueError):
        raise TypeError(
            f"a lane that is shared needs a key of text, numbers or tuples of them, not {key!r}"
        ) from None


def _key(text: str) -> Hashable:
    """Return the key that `_text` wrote."""

    def hashable(value: Any) -> Hashable:  # noqa: ANN401 - of JSON
        return tuple(map(hashable, value)) if isinstance(value, list) else value

    return hashable(json.loads(text))


def _plain(limit: Limit) -> list[float | str]:
    if isinstance(limit, Rate):
        return ["rate", limit.calls, limit.per, limit.burst]
    return ["window", limit.calls, limit.per]


def _limit(plain: Sequence[Any]) -> Limit:
    kind, *figures = plain
    return Rate(*figures) if kind == "rate" else Window(*figures)
