"""`aioapiqueue run`, on programs that know nothing of it."""
