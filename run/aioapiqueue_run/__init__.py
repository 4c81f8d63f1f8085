"""The programs of aioapiqueue: `run` with its hub and gateway, `limits`, `hub`, `watch` and a demo.

The command `aioapiqueue`, which belongs to the library, starts them. Its arguments, output and
files are public, and so is what docs/hub.md shows of `hub.Hub`. Any other name may change.
"""

__version__: str = "1.0.0rc1"
"""The version, which is always that of the library."""
