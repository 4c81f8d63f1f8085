"""The hub of a host: one process that keeps the quotas which all processes of a user share.

The queue that needs it first starts it (`aioapiqueue._shared.host`). It ends when no
process has used it for a while. What it does is for each quota what a queue does for itself: a
`HubQuota` has a dispatcher with a `LocalLimiter`, and each call of a `HubClient` is a call of that.
"""
