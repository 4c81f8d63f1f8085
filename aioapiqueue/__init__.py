"""Paces many concurrent asyncio API calls into one stream."""
