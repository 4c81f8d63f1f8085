"""`aioapiqueue run`: a program and its children, paced from outside without a changed line."""

from aioapiqueue.cli.run.command import run

__all__ = ["run"]
