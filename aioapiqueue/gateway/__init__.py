"""An intercepting proxy for programs that the hook of `aioapiqueue run` does not reach.

It is a process of its own, and one more client of the run's hub: each request to AWS waits there
for its turn, and is then passed on as it came, so that its signature stays valid. See docs/run.md.
"""
