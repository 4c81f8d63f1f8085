"""`aioapiqueue run`: paces a program and its children without changing them.

`command` reads the options into a `RunPlan`. `supervisor` opens the hub and the gateway, starts the
program and watches it until its end; `activation` finds Python processes that are not paced. The
hub counts every call. In the end, `report` composes the messages and the exit code,
`json_report` and `html_report` the files.
"""

from aioapiqueue_run.cli.run.command import run

__all__ = ["run"]
