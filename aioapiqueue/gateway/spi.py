"""What `aioapiqueue run` uses of the gateway: which hosts of AWS it intercepts."""

from aioapiqueue.gateway._concerned import labels_not_opened
from aioapiqueue.gateway._hosts import is_opened

__all__ = ["is_opened", "labels_not_opened"]
