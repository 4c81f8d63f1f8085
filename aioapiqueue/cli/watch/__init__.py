"""`aioapiqueue watch`: the quotas that the hub of this host keeps, live."""

from aioapiqueue.cli.watch.command import watch

__all__ = ["watch"]
