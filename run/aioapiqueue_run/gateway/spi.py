"""What `aioapiqueue run` uses of the gateway: which hosts of AWS it intercepts."""

from aioapiqueue_run.gateway.aws_hosts import is_intercepted, labels_not_intercepted

__all__ = ["is_intercepted", "labels_not_intercepted"]
