"""Half an hour in real time, in which all that can go wrong does: `nox -s soak`."""
