"""A report that proves afterwards that a job did no harm: one HTML file, which needs no other.

Needs Jinja: `pip install "aioapiqueue[report]"`.
"""

from aioapiqueue.integrations.report._observer import ReportObserver
from aioapiqueue.integrations.report._page import page

__all__ = ["ReportObserver", "page"]
