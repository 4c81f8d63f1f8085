"""Checks of what is released: see `__main__.py`."""
