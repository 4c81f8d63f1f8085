"""Slots that threads take."""
