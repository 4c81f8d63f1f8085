"""The programs of aioapiqueue: `run` with its hub and gateway, `limits`, `hub`, `watch` and a demo.

The command `aioapiqueue`, which belongs to the library, starts them. Nothing here is public but the
command line: names may change in any version.
"""

__version__: str = "1.0.0rc1"
"""The version, which is always that of the library."""
