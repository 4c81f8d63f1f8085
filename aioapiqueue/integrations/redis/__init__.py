"""One quota for many hosts, kept on a Redis or Valkey server: `SharedSchedule`.

Install the extra `redis`: `pip install 'aioapiqueue[redis]'`. See docs/fleet.md for its use, and
docs/fleet-guarantees.md for guarantees and costs.
"""

from aioapiqueue.integrations.redis.schedule import SharedSchedule

__all__ = ["SharedSchedule"]

SharedSchedule.__module__ = __name__
