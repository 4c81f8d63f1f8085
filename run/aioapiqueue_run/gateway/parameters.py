"""Reads the parameters of requests on which limits may depend, as numbers.

The results are those of `parameter_counts` for the same call in Python: the value of a whole
number, the length of a list, 1 for any other value, and the members of structures, one level deep.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from aioapiqueue.registry import parameter_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["in_form", "in_json", "in_query", "in_xml"]


def in_json(body: bytes, name: Callable[[str], str]) -> dict[str, int]:
    """Return the parameters in a JSON body; none if it is not a JSON object.

    Args:
        body: the whole body.
        name: returns the name of a parameter that is sent under another name.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return parameter_counts({name(sent): value for sent, value in values.items()})


def in_query(pairs: Iterable[tuple[str, str]], name: Callable[[str], str]) -> dict[str, int]:
    """Return the parameters in a query. A repeated name is a list."""
    values: dict[str, list[str]] = {}
    for sent, value in pairs:
        values.setdefault(name(sent), []).append(value)
    return parameter_counts(
        {one: list(given) if len(given) > 1 else _number(given[0]) for one, given in values.items()}
    )


def in_form(fields: Mapping[str, str], name: Callable[[str], str]) -> dict[str, int]:
    """Return the parameters in a form.

    A list is sent as `Filter.1.Name`, `Ids.member.1` or, where the model names its elements,
    `Ids.Id.1`; a structure as `Placement.Tenancy`.
    """
    lists: dict[str, set[str]] = {}
    others: dict[str, dict[str, object]] = {}
    found: dict[str, object] = {}
    for sent, value in fields.items():
        first, second, third, *_ = *sent.split("."), "", ""
        if not second:
            if first not in {"Action", "Version"}:
                found[name(first)] = _number(value)
        elif second.isdecimal():
            lists.setdefault(name(first), set()).add(second)
        elif third.isdecimal() and second == "member":
            lists.setdefault(name(first), set()).add(third)
        elif third.isdecimal() and name(f"{first}.{second}") != f"{first}.{second}":
            lists.setdefault(name(f"{first}.{second}"), set()).add(third)
        else:
            others.setdefault(name(first), {})[second] = _number(value)
    found |= others
    return parameter_counts(found | {one: list(items) for one, items in lists.items()})


def in_xml(body: bytes, name: Callable[[str], str]) -> dict[str, int]:
    """Return the parameters in an XML body. An element whose children have one name is a list."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - the program's own request, of at most 16 kB
    except (ET.ParseError, LookupError, ValueError):  # the latter two for an unknown character set
        return {}
    return parameter_counts({name(_tag(one)): _value(one) for one in root})


def _value(element: ET.Element) -> object:
    tags = [_tag(child) for child in element]
    if not tags:
        return _number((element.text or "").strip())
    if len(tags) > 1 and len(set(tags)) == 1:
        return tags
    return {_tag(child): list(child) or _number((child.text or "").strip()) for child in element}


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _number(text: str) -> object:
    """Return a text as a number if it is a whole number of at most 16 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,16}", text) else text
