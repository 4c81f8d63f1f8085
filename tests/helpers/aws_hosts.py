"""The names of AWS's hosts, as the rules of botocore make them."""

from __future__ import annotations

import re

from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader

from aioapiqueue_run.gateway.table import table

__all__ = ["hosts"]

LOADER = Loader()
GIVEN = {"Region": "us-east-1", "bucketArn#region": "us-east-1"}


def templates(node):
    """Yield all URLs in the rules for the endpoints of a service."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "url" and isinstance(value, str):
                yield value
            else:
                yield from templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from templates(value)


def hosts():
    """Yield every form of a host's name that botocore's rules have, in each partition."""
    for service in LOADER.list_available_services("service-2"):
        try:
            rules = LOADER.load_service_model(service, "endpoint-rule-set-1")
        except UnknownServiceError:
            continue
        for url in set(templates(rules)):
            name = url.partition("://")[2].partition("/")[0]
            if "url#" in name or name in {"", "localhost:8000"}:
                continue  # what the user has given
            for partition in table().partitions:
                for suffix in partition.suffixes:
                    whole = re.sub(r"\{\w*[pP]artition\w*#(dns|dualStackDns)Suffix\}", suffix, name)
                    whole = re.sub(r"\{([^}]*)\}", lambda found: GIVEN.get(found[1], "x"), whole)
                    yield service, whole.lower()
