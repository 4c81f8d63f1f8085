"""Which call is next, and on which event loop: from `ApiQueue.slot()` to the end of the body."""
