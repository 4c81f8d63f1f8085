"""One module for each optional dependency; none is imported by `aioapiqueue` itself."""
