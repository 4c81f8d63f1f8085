"""`hatch_build.py`, which builds import from the checkout: it is in no package.

The tests of a wheel do not have the checkout on their path.
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

__all__ = ["FILE", "hook"]

FILE = Path(__file__).parents[2] / "hatch_build.py"

_spec = spec_from_file_location("hatch_build", FILE)
assert _spec is not None
assert _spec.loader is not None
hook = module_from_spec(_spec)
_spec.loader.exec_module(hook)
