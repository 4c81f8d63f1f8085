"""Lists the limits in force, each with its source: `InForce`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioapiqueue.registry._model import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue import Limit
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.registry._buckets import Bucket
    from aioapiqueue.registry._model import Layer
    from aioapiqueue.registry._published import PublishedLimit, Scope


@dataclass(frozen=True, slots=True)
class InForce:
    """Limits in force, and where they come from.

    Attributes:
        service: the service's name, or "default" for services that are not listed.
        operation: the operation that has the limits, `"Describe*"` for each with this prefix,
            `"*"` for each other one. None: all operations together, or those of `bucket`.
        limits: all of them apply. Empty: unlimited.
        scope: whether each account, each Region or both have such limits of their own.
        source: the file and line, the option, "code", or the share and page of a preset.
        bucket: the name of the bucket that has the limits, if one does.
        members: the bucket itself.
        figure: the published limit, if the limits come from a preset.
        share: the share of the published limit.
        concurrency: largest number of calls of the service in flight.
        adaptive: how the service backs off when its calls are throttled.
    """

    service: str
    operation: str | None
    limits: tuple[Limit, ...]
    scope: tuple[Scope, ...]
    source: str
    bucket: str | None = None
    members: Bucket | None = None
    figure: PublishedLimit | None = None
    share: float | None = None
    concurrency: int | None = None
    adaptive: Adaptive | None = None


def entries(layers: Mapping[str, Layer]) -> Iterator[InForce]:
    """Yield the limits of each service, then those of its operations, then those of its buckets."""
    for service, (of, sources) in layers.items():
        found = {Entry(): of.rate}  # in the order in which they are listed
        found |= {Entry(lane): limits for lane, limits in of.lanes.items()}
        found |= {
            Entry(bucket=name): one.limits for name, one in of.buckets.items() if one.operations
        }  # a bucket has no operations left if lanes have replaced all its variants
        for entry, limits in found.items():
            source = sources.get(entry)
            if source is None or (source.figure is not None and not limits):
                continue  # there is no such limit, or a table has lifted the published one
            lane, bucket = entry
            text, figure, share = source
            of_all = (of.concurrency, of.adaptive) if entry == Entry() else (None, None)
            yield InForce(
                service,
                None if lane is None else str(lane),
                limits,
                of.scope,
                text,
                bucket,
                of.buckets.get(bucket or ""),
                figure,
                share,
                *of_all,
            )
