"""Quotas of each model, and a log of all that arrived: no sockets, and time as an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.helpers.llm_servers.quotas import Job, Quotas, Refusal

__all__ = ["DAY", "Arrival", "Ledger"]

DAY = 86_400.0  # seconds


@dataclass
class Arrival:
    """One request, and what became of it. Instants are those of the clock that was given."""

    at: float
    key: str  # the API key: which client it is from
    model: str
    costs: Mapping[str, float]
    retry: int = 0  # of the SDK: 0 at the first attempt
    refusal: Refusal | None = None  # the quotas' own
    fault: int | None = None  # the status of another failure
    script: object = None  # what the prompt asked for
    produced: int = 0  # output tokens so far
    back: Mapping[str, float] = field(default_factory=dict)  # what was given back at the end
    ended: float | None = None
    cancelled: bool = False  # the connection was lost before the end

    @property
    def job(self):
        """It as `least_time` takes it, once it has ended."""
        return Job(self.costs, self.ended - self.at, self.back)


class Ledger:
    """Admits requests of many models.

    Args:
        limits: of every model; those of a day have units that end in "_per_day".
        period: seconds, of what is not per day; or a mapping with one for each unit.
        algorithm: "bucket", "window" or "sliding".
        models: limits of models that have their own.
        family: which quotas a model counts against; by default its own.
    """

    def __init__(self, limits, *, period=60.0, algorithm="bucket", models=None, family=str):
        self.limits = dict(limits)
        self.log = []
        self._period = period
        self._algorithm = algorithm
        self._models = dict(models or {})
        self._family = family
        self._quotas = {}

    def new_quotas(self, model="m", *, share=1.0):
        """Make quotas like those of a model, or a share of them, of which nothing is taken."""
        found = self._models.get(self._family(model), self.limits)
        limits = {unit: share * limit for unit, limit in found.items()}
        period = self._period
        if not isinstance(period, Mapping):
            period = {unit: DAY if unit.endswith("_per_day") else period for unit in limits}
        return Quotas(limits, period=period, algorithm=self._algorithm)

    def quotas(self, model):
        """Return the quotas that a model counts against."""
        family = self._family(model)
        if family not in self._quotas:
            self._quotas[family] = self.new_quotas(model)
        return self._quotas[family]

    @property
    def refusals(self):
        """Those that a quota refused."""
        return [arrival for arrival in self.log if arrival.refusal is not None]

    def jobs(self, *, key=None):
        """Return what was admitted and has ended, of one API key or all, for `least_time`."""
        return [one.job for one in self.log if one.ended is not None and key in {None, one.key}]

    def arrive(self, now, *, key, model, costs, retry=0, fault=None):
        """Admit a request or refuse it, note it, and return the note.

        One with a `fault` fails for another reason, before anything is counted.
        """
        refusal = None if fault else self.quotas(model).take(now, costs)
        arrival = Arrival(now, key, model, costs, retry, refusal, fault)
        self.log.append(arrival)
        return arrival

    def end(self, now, arrival, back, *, cancelled=False):
        """Note the end of a request that was admitted, and give back what it did not use."""
        arrival.ended, arrival.back, arrival.cancelled = now, back, cancelled
        self.quotas(arrival.model).credit(now, arrival.at, back)
