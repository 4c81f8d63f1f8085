"""What `aioapiqueue run --report` uses of the report, in addition to public names."""

from aioapiqueue.integrations.report._masks import Masks

__all__ = ["Masks"]
