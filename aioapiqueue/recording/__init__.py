"""Figures of queues over time, in bounded memory: for reports, runs and the hub. Not public."""
