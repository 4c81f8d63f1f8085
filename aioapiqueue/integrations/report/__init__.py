"""An HTML report of what queues did, in one self-contained file.

Install the extra `report`.
"""

from aioapiqueue.integrations.report._observer import ReportObserver
from aioapiqueue.integrations.report._page import page

__all__ = ["ReportObserver", "page"]
