"""`aioapiqueue limits`: shows the limits in force, checks a limits.toml, or writes one."""

from aioapiqueue_run.cli.limits.command import app

__all__ = ["app"]
