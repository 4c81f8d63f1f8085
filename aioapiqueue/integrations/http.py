"""Building blocks for pacing an HTTP client, and the values its options use.

The options of existing clients use `Advice` and `Quota`, which an `advise=` function returns,
`read_advice`, which parses response headers, and `Learning`, the value of `learn=`.

To write a new integration, inherit from `HttpPacer`, and implement a `Wire` for the library,
together with `AsyncSteps` or `BlockingSteps`. `HttpPacer.exchange` yields the steps of one request,
and `run_async` or `run` executes them.
"""

from __future__ import annotations

from aioapiqueue.integrations._advice import Advice, Quota
from aioapiqueue.integrations._exchange import Wire, run, run_async
from aioapiqueue.integrations._headers import read_advice, reads_body
from aioapiqueue.integrations._http import AsyncSteps, BlockingSteps, HttpPacer, Key
from aioapiqueue.integrations._learning import Learning
from aioapiqueue.integrations._refusal_body import MAX_BODY
from aioapiqueue.integrations._usage import UsageReader

__all__ = [
    "MAX_BODY",
    "Advice",
    "AsyncSteps",
    "BlockingSteps",
    "HttpPacer",
    "Key",
    "Learning",
    "Quota",
    "UsageReader",
    "Wire",
    "read_advice",
    "reads_body",
    "run",
    "run_async",
]
