"""`aioapiqueue limits`: shows the limits in force, checks a limits.toml, or writes one."""

from aioapiqueue.cli.limits.command import app

__all__ = ["app"]
