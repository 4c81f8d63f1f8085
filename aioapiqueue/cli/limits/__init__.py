"""`aioapiqueue limits`: show the limits in force, check a limits.toml, write one."""

from aioapiqueue.cli.limits._command import app

__all__ = ["app"]
