"""`aioapiqueue run`: paces a program and its children without changing them.

`options` are those of the command line, from which `plan` makes a `RunPlan`. `supervisor` opens the
hub and the gateway, starts the program and watches it until its end; `activation` finds Python
processes that are not paced. The hub counts every call. In the end, `results` shows
and writes what `report`, `json_report` and `html_report` compose.
"""

from aioapiqueue_run.cli.run.command import run

__all__ = ["run"]
