"""The host hub: one process that keeps the quotas which all processes of a user share.

The first queue that needs the hub starts it (`aioapiqueue._shared.host`). The hub ends when it has
been idle for a while. A quota works like a queue: a `HubQuota` has a dispatcher with a
`LocalLimiter`, and each call of a `HubClient` is a call of that dispatcher.
"""
