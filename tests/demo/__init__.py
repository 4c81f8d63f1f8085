"""The demonstration's gate and what it makes of its figures."""
