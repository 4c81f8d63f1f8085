"""Quotas that the processes of one host share through the hub."""
