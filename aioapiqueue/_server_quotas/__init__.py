"""Servers' reports about their quotas: a policy, attached to a queue by the first report."""

from aioapiqueue._server_quotas.limiter_quotas import LocalQuotas
from aioapiqueue._server_quotas.queue_quotas import ServerQuotas
from aioapiqueue._server_quotas.server_bound import refill_time

__all__ = ["LocalQuotas", "ServerQuotas", "refill_time"]
