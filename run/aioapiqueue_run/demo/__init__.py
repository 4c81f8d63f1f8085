"""The demonstration that `aioapiqueue demo` runs. The benchmarks use parts of it, too.

Needs the extra `demo`. The names in it are not public: they may change at any time.
"""
