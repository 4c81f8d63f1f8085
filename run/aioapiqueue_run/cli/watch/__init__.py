"""`aioapiqueue watch`: a live view of the quotas that the host hub enforces."""

from aioapiqueue_run.cli.watch.command import watch

__all__ = ["watch"]
