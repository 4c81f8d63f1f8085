"""`aioapiqueue limits`: show the limits in force, check a limits.toml, write one."""

from aioapiqueue.cli.limits.command import app

__all__ = ["app"]
