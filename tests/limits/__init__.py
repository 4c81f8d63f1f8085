"""Limits: their texts, values and arithmetic."""
