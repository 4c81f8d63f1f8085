"""What `aioapiqueue limits --prices` uses, in addition to public names.

Not in `integrations.spi`, because the hub needs nothing of this.
"""

from aioapiqueue.integrations.llm._price_list import (
    PROFILES,
    ListedModel,
    PriceChange,
    PriceList,
)

__all__ = ["PROFILES", "ListedModel", "PriceChange", "PriceList"]
