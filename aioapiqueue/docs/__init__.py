"""The pages of the documentation and the API reference, as `aioapiqueue docs` prints them."""
