"""A mock account with what scanners ask for and moto lacks: without it, some find nothing in it."""

from __future__ import annotations

import sys

from _moto_server import serve
from moto.core.responses import ActionResult
from moto.ec2 import urls
from moto.ec2.responses import EC2Response
from moto.utilities.utils import filter_resources

_ATTRIBUTES = (("region-name", "name"), ("opt-in-status", "opt_in_status"))


class Responses(EC2Response):
    """EC2 as moto has it, and two answers more."""

    def describe_regions(self) -> ActionResult:
        """Apply the filters, which moto does not."""
        regions = self.ec2_backend.describe_regions(self._get_param("RegionNames", []))
        filters = self._filters_from_querystring()
        return ActionResult({"Regions": filter_resources(regions, filters, _ATTRIBUTES)})

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        """Answer with the account's default key, made by AWS at its first use."""
        ec2 = self.ec2_backend
        key = ec2.default_kms_key_id or ec2.modify_ebs_default_kms_key_id("")
        return ActionResult({"KmsKeyId": key})


if __name__ == "__main__":
    urls.url_paths["{0}/"] = Responses.dispatch
    serve(*map(int, sys.argv[1:]))
