"""What the programs use of the integrations: what responses ask for, and in which account.

`Advice` and `Quota` are public, too, in `integrations.http`, which loads all of the HTTP clients'
machinery: the hub needs these values alone.
"""

from aioapiqueue.integrations._advice import MAX_HOLD, Advice, Quota, shortened
from aioapiqueue.integrations._apply_advice import apply_advice
from aioapiqueue.integrations._aws import account_of, hold_of, is_throttle

__all__ = [
    "MAX_HOLD",
    "Advice",
    "Quota",
    "account_of",
    "apply_advice",
    "hold_of",
    "is_throttle",
    "shortened",
]
