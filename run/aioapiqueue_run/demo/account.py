"""The mock AWS account of the demonstration: it answers what a scan asks of EC2, S3 and IAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from aioapiqueue_run.demo.scan import PUBLIC_ONE_IN, snapshot_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue_run.demo.scan import ScanPlan

__all__ = ["MockAccount"]


class MockAccount:
    """Answers the calls that list snapshots, buckets and users, and those about each of them.

    Args:
        plan: the contents of the account.
    """

    def __init__(self, plan: ScanPlan) -> None:
        public = range(0, plan.snapshots, PUBLIC_ONE_IN)
        self._public = {snapshot_id(number) for number in public}
        ids = map(snapshot_id, range(plan.snapshots))
        snapshots = "".join(f"<item><snapshotId>{one}</snapshotId></item>" for one in ids)
        names = [f"demo-{number}" for number in range(plan.buckets)]
        buckets = "".join(f"<Bucket><Name>{one}</Name></Bucket>" for one in names)
        users = "".join(f"<member><UserName>{one}</UserName></member>" for one in names)
        self._lists = {
            "DescribeSnapshots": f"<snapshotSet>{snapshots}</snapshotSet>",
            "ListUsers": f"<ListUsersResult><Users>{users}</Users></ListUsersResult>",
            "ListBuckets": f"<Buckets>{buckets}</Buckets>",
        }

    async def answer(
        self, request: web.BaseRequest, parameters: Mapping[str, Sequence[str]]
    ) -> web.Response:
        """Return the response to a request; an empty one to all that concern buckets and users.

        Args:
            request: the request.
            parameters: the values of its form.
        """
        # S3 alone has no form; the path of its list of buckets names no bucket.
        action = parameters.get("Action", ["ListBuckets" if request.path == "/" else "Get"])[0]
        content = self._lists.get(action, f"<{action}Result/>")
        if action == "DescribeSnapshotAttribute":
            is_public = parameters["SnapshotId"][0] in self._public
            everybody = "<item><group>all</group></item>" if is_public else ""
            content = f"<createVolumePermission>{everybody}</createVolumePermission>"
        text = f"<{action}Response>{content}</{action}Response>"
        return web.Response(text=text, content_type="text/xml")
