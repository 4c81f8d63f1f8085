"""What `import aioapiqueue` takes of a program's start."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile

from _common import Report, interleave, main, ratios, spread

BASE, OURS = "anyio, asyncio", "aioapiqueue"
MODULES = ("asyncio", BASE, OURS, "aiolimiter", "asynciolimiter")
TIMED = """
import sys, time
began = time.process_time()
import {}
print(time.process_time() - began)
"""


def imports(report: Report, /, *, quick: bool) -> None:
    """In a fresh interpreter each, all modules compiled before."""
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": f"{elsewhere}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def milliseconds(modules: str) -> float:
            done = subprocess.run(  # noqa: S603 - our own code
                [sys.executable, "-c", TIMED.format(modules)],
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
                cwd=elsewhere,  # so that what is installed is imported, not this tree
                env=environment,
            )
            return float(done.stdout) * 1000

        for modules in MODULES:
            milliseconds(modules)  # compiles them
        costs = interleave(
            {modules: functools.partial(milliseconds, modules) for modules in MODULES},
            15 if quick else 45,
        )
    rows = [
        (modules, spread(values, ".1f"), spread(ratios(values, costs[BASE])))
        for modules, values in costs.items()
    ]
    report.table("An import, CPU time", ("", "ms", f"times {BASE}"), rows)
    shares = ratios(costs[OURS], costs[BASE])
    report.target(f"import, times {BASE}", statistics.median(shares), most=1.4, rounds=shares)


CASES = (imports,)

if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], *CASES)
