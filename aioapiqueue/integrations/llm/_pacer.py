"""The LLM transports of all libraries: a profile determines the keys and costs of requests."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from aioapiqueue import LimitExceeded
from aioapiqueue.integrations._httpx_transports import HttpxPacer
from aioapiqueue.integrations._learning import Learning
from aioapiqueue.integrations.llm._bedrock import BedrockProfile
from aioapiqueue.integrations.llm._prices import USD
from aioapiqueue.integrations.llm._profile import Profile
from aioapiqueue.integrations.llm._profiles import profile_for
from aioapiqueue.integrations.llm._refused import NoPrice, local_answer
from aioapiqueue.integrations.llm._usage import BodyUsageReader, StatedUsageReader
from aioapiqueue.spi import CALLS, limit_types

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations._exchange import Flow, Headers, Request, Response
    from aioapiqueue.integrations._httpx_wire import HttpxWire
    from aioapiqueue.integrations.llm._request import LLMRequest
    from aioapiqueue.integrations.llm._stated_usage import Usage
    from aioapiqueue.spi import Cost

_OK = 200
_EXTENSION = "aioapiqueue.llm"
"""Extension in which a request holds its `LLMRequest`: both are garbage collected together."""


class ProfiledPacer(HttpxPacer[Any]):
    """Mixin that paces requests to one LLM provider; inherit from it before a transport class.

    Args:
        queue: as for the transport class.
        transport: as for the transport class.
        profile: what the provider counts.
        learn: whether to learn limits that you have not set from headers. Default: True.
        options: as for the transport class.

    Raises:
        TypeError: `profile` is not a `Profile`, or is for Bedrock; or as for the transport class.
        ValueError: a limit of the queue has a unit that the profile does not count; or as for the
            transport class.
    """

    def __init__(
        self,
        queue: Any,  # noqa: ANN401 - of the other class
        transport: Any = None,  # noqa: ANN401 - as above
        *,
        profile: Profile,
        learn: bool = True,
        **options: Any,  # noqa: ANN401 - as above
    ) -> None:
        if not isinstance(profile, Profile):
            raise TypeError(f"profile must be a Profile such as llm.openai, not {profile!r}")
        if isinstance(profile, BedrockProfile):
            raise TypeError(
                f"{profile!r} is for botocore clients: use pace_session(session, "
                '{"bedrock-runtime": queue}, profile=llm.bedrock)'
            )
        learning = Learning(
            units=profile.units,
            periods=profile.periods,
            refills=profile.refills,
            ramp=profile.ramp,
        )
        self.profile = profile
        self._has_warned = False
        """Whether the user has been warned of a wrong profile."""
        more: dict[str, Any] = {"settle": self._settled, "learn": learning if learn else False}
        super().__init__(queue, transport, **more, **options)
        _check_units(self.queue, profile)
        if USD in self._reporter.units:
            profile.load_prices()  # now, as it would block the event loop at the first call

    def handle(self, request: Request, wire: HttpxWire) -> Flow[Response]:
        """Return the steps of one request, whose result is its response."""
        if self.profile.max_output is not None:
            request = self._with_maximum(request)
        flow = super().handle(request, wire)
        return self._answering(flow) if self.profile.answers_refusals else flow

    def _answering(self, flow: Flow[Response]) -> Flow[Response]:
        """Yield the steps of a request; a refusal is returned as a response, and not raised."""
        try:
            return (yield from flow)
        except (LimitExceeded, NoPrice, ImportError) as error:
            return local_answer(self.library, error)

    def _with_maximum(self, request: Request) -> Request:
        """Return a request that sets a maximum for its response."""
        body = self.profile.with_maximum(self._read(request))
        if body is None:
            return request
        headers = request.headers.copy()
        headers.pop("content-length", None)
        content = json.dumps(body, separators=(",", ":")).encode()
        return self.library.Request(
            request.method,
            request.url,
            headers=headers,
            content=content,
            extensions=request.extensions,
        )

    def _read(self, request: Request) -> LLMRequest:
        # Not `request.content`: a request after a redirect has none.
        is_read = isinstance(request.stream, self.library.ByteStream)
        return self.profile.read(
            host=request.url.host,
            path=request.url.path,
            method=request.method,
            headers=dict(request.headers),
            content=b"".join(request.stream) if is_read else None,
        )

    def asked_for(self, request: Request) -> tuple[Hashable, Cost]:
        """Return the key and the cost of a request.

        Raises:
            NoPrice: a limit in USD applies, and the request has no known highest price.
            ImportError: the price package is needed and not installed.
        """
        profile = self.profile
        found = self._read(request)
        key = profile.key_of(found)
        # Kept until the response ends, without the text and the API key. What is reserved is
        # computed once, because `reserve` may return another number when the call is settled.
        kept = replace(found, reserved=profile.reserved_for(found), headers={}, body={})
        cost = profile.cost_of(kept)
        if self._reporter.counts(USD, (key,)):
            priced, cost = profile.priced(found, cost, time.time())
            kept = replace(priced, reserved=kept.reserved, headers={}, body={})
            if priced.price.source:
                self._reporter.price_from(priced.price.source)
        request.extensions[_EXTENSION] = kept
        return key, cost

    def prepare(self, cost: Cost) -> None:
        """Declare the units of the profile, whether limits are learnt or not."""
        self._reporter.declare(self.profile.units)
        super().prepare(cost)

    def usage_reader(
        self, request: Request, status: int, headers: Headers
    ) -> BodyUsageReader | None:
        """Return a reader that finds the usage in a response, or None."""
        found = _request_of(request)
        if status != _OK or found is None:
            return None
        if found.endpoint is None:
            # Read only for the warning about a wrong profile, which is issued once.
            fits = request.method == "POST" and self._other_profile(found) is not None
            return StatedUsageReader.of(headers) if fits and not self._has_warned else None
        # Only prices depend on the service tier.
        is_priced = found.price is not None
        return BodyUsageReader.of(headers, most_output=found.max_output_tokens, with_tier=is_priced)

    def cost_of_failure(self, request: Request, status: int) -> Cost | None:
        """Return the cost of a request that the provider did not serve."""
        found = _request_of(request)
        return None if found is None else self.profile.failed(found, status)

    def remedy_for(self, library: str) -> str:
        """Return how to pace clients of the other library."""
        return f'for clients of {library}, pass library="{library}"'

    def _settled(self, request: Request, response: Response, usage: Usage | None) -> Cost | None:
        del response
        found = _request_of(request)
        if found is None:
            return None
        if usage and found.endpoint is None:
            self._warn_of_profile(found)
        return self.profile.settled(found, usage, now=time.time())

    def _other_profile(self, found: LLMRequest) -> Profile | None:
        """Return the profile that fits a request, or None if the client's has the same name."""
        fitting = profile_for(found.host, found.path)
        # By name: a user may have changed the endpoints of the right profile.
        return None if fitting is None or fitting.name == self.profile.name else fitting

    def _warn_of_profile(self, found: LLMRequest) -> None:
        """Warn once that a response states a usage but the profile does not cover its request."""
        fitting = self._other_profile(found)
        if fitting is None or self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"the profile {self.profile.name!r} does not cover POST {found.host}{found.path}, so "
            f"the tokens of such requests are not counted: use llm.{fitting.name} for this client",
            stacklevel=2,
        )


@cache
def llm_transport(transport: type[HttpxPacer[Any]]) -> Any:  # noqa: ANN401 - a class of both
    """Return a transport class of a library combined with `ProfiledPacer`."""
    return type(f"LLM{transport.__name__}", (ProfiledPacer, transport), {})


def _check_units(queue: ApiQueue, profile: Profile) -> None:
    """Raise an error if a limit of the queue itself has a unit that the profile does not count."""
    # Lanes are not checked: they may be for clients with another profile.
    counted = (CALLS, *profile.units, USD)
    for limit in queue.limits:
        unit = limit_types.unit_of(limit)
        if (
            unit is not None
            and unit not in counted
            and not isinstance(limit, limit_types.LearntRate)
        ):
            import difflib  # noqa: PLC0415 - only for this error

            near = difflib.get_close_matches(unit, counted, n=1)
            known = ", ".join(counted) + (f". Did you mean {near[0]!r}?" if near else "")
            raise ValueError(
                f'{queue!r} cannot pace {profile.name}: "{limit}" counts {unit}, but the profile '
                f"{profile.name} counts only these units: {known}"
            )


def _request_of(request: Request) -> LLMRequest | None:
    return request.extensions.get(_EXTENSION)  # type: ignore[no-any-return]  # set by `asked_for`
