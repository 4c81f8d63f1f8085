"""The transport to a Redis or Valkey server: each message is one call of the script `gcra.lua`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions as errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aioapiqueue._shared.outage import Unreachable
from aioapiqueue.exceptions import SharedError
from aioapiqueue.integrations.redis._codec import Evicts, OtherVersion, Unreadable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aioapiqueue._shared.redis.messages import Differing, Envelope, Reply, SharedSettings
    from aioapiqueue.integrations.redis._codec import Codec

_LOG = logging.getLogger("aioapiqueue")

# In this order: each part uses the locals of those before it.
SCRIPT = "\n".join(
    (files(__package__) / f"{part}.lua").read_text("utf-8")
    for part in (
        "gcra_figures",
        "gcra_limits",
        "gcra_ramp",
        "gcra_adaptive",
        "gcra_answers",
        "gcra_budgets",
        "gcra_states",
        "gcra_refusals",
        "gcra_decisions",
        "gcra",
    )
)
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""The digest by which a server knows the script; each version of the script has its own."""
_UNREADABLE = re.compile(r"UNREADABLE (.*) UNREADABLE", re.DOTALL)
"""The error that the script raises for a value that it never writes."""
_REFUSALS = (
    errors.AuthenticationError,
    errors.AuthenticationWrongNumberOfArgsError,
    errors.AuthorizationError,
    errors.NoPermissionError,
)
# Errors that pass without the user: a full memory, a failover, a cluster that is being resharded.
_PASSING = (
    errors.OutOfMemoryError,
    errors.ReadOnlyError,
    errors.ClusterError,
    errors.TryAgainError,
    errors.AskError,  # a MovedError is one
)
_PASSING_CODES = ("BUSY", "LOADING", "MISCONF", "NOREPLICAS", "UNBLOCKED")


class RedisClient(Protocol):
    """The methods of redis.asyncio's `Redis` and `RedisCluster` that are used."""

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]: ...  # noqa: ANN401 - as redis-py has it

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]: ...  # noqa: ANN401 - as above


class RedisTransport:
    """Sends a queue's messages; see `aioapiqueue._shared.redis.messages.Transport`.

    Args:
        client: of redis-py.
        codec: translates.
        settings: of the schedule.
    """

    def __init__(self, client: RedisClient, codec: Codec, settings: SharedSettings) -> None:
        self.settings = settings
        self._client = client
        self._codec = codec
        self._checked = False
        """Whether the server is known to keep budgets, or cannot be asked."""

    def __repr__(self) -> str:
        return f"SharedSchedule({self.settings.name!r})"

    async def send(self, envelope: Envelope) -> Reply | Differing:
        """Send a message once."""
        checks = not self._checked and envelope.reserved is not None and envelope.reserved.lasts
        try:
            reply = await self._send(envelope, checks_memory=checks)
        except Evicts as error:
            if error.policy:
                raise self._eviction(error.policy) from None
            _LOG.warning(
                "%r: the server does not show its maxmemory-policy to this user. With a policy "
                "other than noeviction, it may forget what was spent of a Budget. Permit the "
                "command INFO, and this is checked",
                self,
            )
            reply = await self._send(envelope, checks_memory=False)
        except Unreachable:
            self._checked = False  # the next server may be another one
            raise
        self._checked |= checks
        return reply

    async def _send(self, envelope: Envelope, *, checks_memory: bool) -> Reply | Differing:
        keys, verb, payload = self._codec.encode(envelope, checks_memory=checks_memory)
        arguments = *keys, verb, "", payload
        try:
            # Cancelled here, or timed out: redis-py drops the connection, and slots in the reply
            # are lost. They are never granted twice.
            async with asyncio.timeout(self.settings.timeout):
                try:
                    answer = await self._client.evalsha(SHA, len(keys), *arguments)
                except errors.NoScriptError:  # a server that has just started; `eval` loads it
                    answer = await self._client.eval(SCRIPT, len(keys), *arguments)
            return self._codec.decode(envelope, answer)
        # Refusals first: to redis-py, an AuthenticationError is also a ConnectionError, and a
        # NoPermissionError a ResponseError. `from None`, as the text of its error, which `_why`
        # cleans, may contain a password.
        except _REFUSALS as error:
            raise self._refusal(error) from None
        except Unreadable as error:
            raise self._planted(str(error)) from None
        except OtherVersion as error:
            raise SharedError(
                f"{self!r}: {error}. Use one version in all processes. If no other process uses "
                "this name any more, wait until its keys expire (with a Budget, they never do), "
                f"or delete the keys: {self._codec.base}*"
            ) from None
        except TimeoutError:
            # redis-py may have retried a refused login until now, as it does any ConnectionError.
            await self._look_closer()
            raise Unreachable(f"no response within {self.settings.timeout:g} s") from None
        except errors.ResponseError as error:
            raise self._objection(error) from None
        except errors.RedisClusterException as error:  # not a RedisError: no node can be used
            raise self._no_node(error) from None
        except (errors.RedisError, OSError) as error:
            raise Unreachable(_why(error)) from None

    def _objection(self, error: errors.ResponseError) -> SharedError | Unreachable:
        """Return the error for a request that the server, or the script on it, rejects."""
        if found := _UNREADABLE.search(str(error)):
            return self._planted(found[1])
        if isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES):
            return Unreachable(_why(error))
        if "no permission" in str(error):  # for a command that the script uses
            return self._refusal(error)
        return SharedError(f"{self!r}: the server rejected the request ({_why(error)})")

    def _eviction(self, policy: str) -> SharedError:
        return SharedError(
            f"{self!r}: the server's maxmemory-policy is {policy}, so that it may forget what was "
            "spent of a Budget. Set it to noeviction (CONFIG SET maxmemory-policy noeviction), or "
            "keep this quota on another server"
        )

    def _planted(self, what: str) -> SharedError:
        return SharedError(
            f"{self!r}: the key {what}, which aioapiqueue never writes. Find out what else writes "
            "to this key, then delete the key (DEL)"
        )

    def _refusal(self, error: BaseException) -> SharedError:
        return SharedError(
            f"{self!r}: the server refuses this user ({_why(error)}). Check the name, the "
            f"password, and the permissions for EVAL, EVALSHA and the keys {self._codec.base}*"
        )

    def _no_node(self, error: Exception) -> SharedError | Unreachable:
        """Return the error for a cluster without a usable node, which may hide a refusal."""
        # The cause is several errors deep: redis-py tries one node after the other.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _REFUSALS):
            cause = cause.__cause__ or cause.__context__
        return Unreachable(_why(error)) if cause is None else self._refusal(cause)

    async def _look_closer(self) -> None:
        """Raise if the timeout hides a refusal, which the client retried until then."""
        pool = getattr(self._client, "connection_pool", None)
        if pool is None:  # a cluster's client has one pool for each node
            return
        # Not by the pool: a free connection of it is connected already, and a full one would wait.
        connection = pool.make_connection()
        connection.retry = Retry(NoBackoff(), 0)
        try:
            async with asyncio.timeout(self.settings.timeout / 2):
                await connection.connect()
        except _REFUSALS as error:
            raise self._refusal(error) from None
        except (errors.RedisError, OSError) as error:  # a TimeoutError is an OSError
            if str(error):  # a better reason than "no response"
                raise Unreachable(_why(error)) from None
        finally:
            await connection.disconnect()


def _why(error: BaseException) -> str:
    """Return the type and text of an error, without a password."""
    # A server that does not know AUTH quotes its arguments.
    text = str(error).partition(", with args beginning with")[0]
    return f"{type(error).__name__}: {text}"
