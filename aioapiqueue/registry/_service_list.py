"""The names of AWS's services and operations, from presets/operations.txt."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ServiceList", "service_list"]

_FILE = Path(__file__).parent / "presets" / "operations.txt"


class ServiceList(NamedTuple):
    """The services and operations that two versions of botocore know.

    Attributes:
        newest: the newer version, such as "1.44.8".
        read: the day on which it was the newest version, such as "2026-11-30".
        ids: other names of services, such as the ids in botocore's event names, with the name in
            `create_client`: `{"auto-scaling": "autoscaling"}`.
        operations: the operations of each service, as one text separated by white space.
    """

    newest: str
    read: str
    ids: Mapping[str, str]
    operations: Mapping[str, str]


@cache
def service_list() -> ServiceList:
    """Return what the file lists. The first call reads it, which takes about 1 ms."""
    header, _, entries = _FILE.read_text("utf-8").partition("\n\n")
    about = dict(re.findall(r"^# (\S+): +(\S+)$", header, re.MULTILINE))
    ids: dict[str, str] = {}
    operations: dict[str, str] = {}
    # A line that begins with a space continues the entry above it. A service can have two entries:
    # the one with a "+" has the operations that only the newer botocore knows.
    for entry in re.split(r"\n(?! )", entries.strip()):
        head, _, names = entry.removeprefix("+").partition(":")
        service, _, id_ = head.partition("=")
        operations[service] = operations.get(service, "") + names
        if id_:
            ids[id_] = service
    # An id that is also a name (`sms-voice=pinpoint-sms-voice`): both are the same service.
    for id_ in ids.keys() & operations.keys():
        ids[ids.pop(id_)] = id_
    return ServiceList(about["newest"], about["read"], ids, operations)
