"""Servers' reports about their quotas: a policy, attached to a queue by the first report."""

from aioapiqueue._server_quotas.local import LocalQuotas
from aioapiqueue._server_quotas.of_queue import ServerQuotas
from aioapiqueue._server_quotas.server_bound import refill_time

__all__ = ["LocalQuotas", "ServerQuotas", "refill_time"]
