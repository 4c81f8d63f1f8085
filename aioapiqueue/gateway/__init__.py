"""An intercepting proxy for programs that the hook of `aioapiqueue run` does not reach.

It is a process of its own, and one more client of the run's hub: each request waits there for its
turn, and is then forwarded unchanged, so that its signature stays valid. See docs/gateway.md.
"""
