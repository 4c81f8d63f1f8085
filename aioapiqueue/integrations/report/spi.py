"""What `aioapiqueue run --report` uses of the report, beside public names."""

from aioapiqueue.integrations.report._masks import Masks

__all__ = ["Masks"]
