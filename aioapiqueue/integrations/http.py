"""What the integrations of HTTP clients are made of, for those who write another.

`HttpPacer` is their base. A `Wire` does the steps of one library, with `AsyncSteps` or
`BlockingSteps` for those of the queue; `HttpPacer.exchange` yields them, and `run_async` or `run`
does what it says. `Advice` is what an answer asks for, and what `advise=` returns.
"""

from __future__ import annotations

from aioapiqueue.integrations._advice import Advice, Quota
from aioapiqueue.integrations._async_wire import AsyncSteps
from aioapiqueue.integrations._blocking_wire import BlockingSteps
from aioapiqueue.integrations._exchange import Wire, run, run_async
from aioapiqueue.integrations._headers import MAX_BODY, read_advice, reads_body
from aioapiqueue.integrations._http import HttpPacer, Key
from aioapiqueue.integrations._learning import Learning
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
