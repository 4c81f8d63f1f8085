"""The demonstration of `aioapiqueue demo`, and its instruments, which the benchmarks use, too.

Needs the extra `demo`. It is no public interface: its names may change at any time.
"""
