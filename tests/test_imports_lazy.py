"""What `import aioapiqueue` costs: which modules it loads, and how long it takes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest

import aioapiqueue

NOT_LOADED = (
    "aioapiqueue.registry",
    "aioapiqueue.adaptive",
    aioapiqueue.Event.__module__,
    aioapiqueue.LimiterView.__module__,
    aioapiqueue.Stats.__module__,
    f"{aioapiqueue.ApiQueue.__module__.rpartition('.')[0]}.double_pacing",
    "aioapiqueue._server_quotas",
    "tomllib",
    "uuid",
    "random",
    "difflib",
    "aioapiqueue.schedules",
    "aioapiqueue.integrations",
    "aioapiqueue.recording",
)
"""Modules that only some programs need: for AWS, adaptive limits, figures, quotas that
servers tell of or others share, or a file of limits."""

ROUNDS = 7
BASE, OURS = "anyio, asyncio", "aioapiqueue"
LOADED = "import {}, json, sys; print(json.dumps(sorted(sys.modules)))"
TIMED = """
import sys, time
began = time.process_time()
import {}
print(time.process_time() - began)
"""


def python(code, folder):
    """Return what a fresh interpreter prints: elsewhere than in our tree, with compiled modules."""
    env = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, cwd=folder, env=env
    )
    return done.stdout


@pytest.mark.real
def test_import_leaves_out(tmp_path):
    """`import aioapiqueue` loads no module that only some programs need, unless anyio does."""
    loaded = set(json.loads(python(LOADED.format(OURS), tmp_path)))
    loaded -= set(json.loads(python(LOADED.format(BASE), tmp_path)))
    assert OURS in loaded
    parts = [one.split(".") for one in loaded]
    above = {".".join(one[:end]) for one in parts for end in range(1, len(one) + 1)}
    assert above & set(NOT_LOADED) == set()


@pytest.mark.real
@pytest.mark.full_speed
@pytest.mark.flaky(reruns=2)  # it bounds a ratio of CPU times, which vary
def test_import_takes_little_time(tmp_path):
    """It takes at most 1.4 times as long as `import anyio, asyncio`.

    The median ratio of interleaved rounds, as the machine's speed changes between them: one that
    was lucky decides nothing. The first compiles the modules, and does not count.
    """
    times = {BASE: [], OURS: []}
    for _ in range(ROUNDS):
        for modules, found in times.items():
            found.append(float(python(TIMED.format(modules), tmp_path)))
    ratios = [ours / base for base, ours in zip(times[BASE], times[OURS], strict=True)]
    assert statistics.median(ratios[1:]) <= 1.4


@pytest.mark.real
def test_registry_is_loaded_when_used(tmp_path):
    """Its names, and the module itself, are attributes of the package all the same."""
    code = (
        "import aioapiqueue, sys\n"
        "print('aioapiqueue.registry' in sys.modules)\n"
        "print(aioapiqueue.ServiceLimits('1/s'))\n"
        "print(aioapiqueue.registry.Registry is aioapiqueue.Registry)\n"
        "from aioapiqueue import *\n"
        "print(Registry is aioapiqueue.Registry)\n"
    )
    limits = "ServiceLimits(rate=(Rate(calls=1, per=1.0, burst=1),))"
    assert python(code, tmp_path) == f"False\n{limits}\nTrue\nTrue\n"


def test_lazy_names_are_listed():
    """`dir` has every public name once, loaded or not; a misspelt one is refused by name."""
    assert set(aioapiqueue.__all__) <= set(dir(aioapiqueue))
    assert len(set(dir(aioapiqueue))) == len(dir(aioapiqueue))
    with pytest.raises(AttributeError, match="module 'aioapiqueue' has no attribute 'Regstry'"):
        aioapiqueue.Regstry  # noqa: B018 - looking it up is the test
