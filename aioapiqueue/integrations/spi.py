"""Names that the programs use: what a response asks for, and which account it counts against.

`Advice` and `Quota` are also public in `integrations.http`, but that loads everything that HTTP
clients need, and the hub needs only these values.
"""

from aioapiqueue.integrations._advice import MAX_HOLD, Advice, Quota, shortened
from aioapiqueue.integrations._apply_advice import apply_advice
from aioapiqueue.integrations._aws import account_of, hold_of, is_throttle
from aioapiqueue.integrations._compression import decoded

__all__ = [
    "MAX_HOLD",
    "Advice",
    "Quota",
    "account_of",
    "apply_advice",
    "decoded",
    "hold_of",
    "is_throttle",
    "shortened",
]
