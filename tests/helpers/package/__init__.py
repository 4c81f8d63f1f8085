"""Checks of what is released, as a part of `uvx nox -s package`."""
