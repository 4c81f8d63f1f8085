"""The hub of a host: one process that keeps the quotas which all processes of a user share.

It is started by the queue that needs it first (`aioapiqueue._host`), and ends when nobody has used
it for a while. What it does is for each quota what a queue does for itself: a `Quota` has a
dispatcher with a `LocalLimiter`, and each call of a `Client` is a call of that.
"""
