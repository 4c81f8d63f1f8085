"""One quota for many hosts, kept on a Redis or Valkey server: `SharedSchedule`.

Needs the extra `redis`: `pip install 'aioapiqueue[redis]'`. How it works, what it costs and what
it guarantees: docs/fleet.md.
"""

from aioapiqueue.integrations.redis.schedule import SharedSchedule

__all__ = ["SharedSchedule"]

SharedSchedule.__module__ = __name__
