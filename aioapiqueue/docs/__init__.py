"""The documentation and the API reference, as `aioapiqueue docs` prints them. Not public."""
