"""Queues, slots, waiting calls and what decides which of them is next."""
