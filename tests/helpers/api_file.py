"""Write `tests/api.txt`, all that users may build on: `uvx nox -s api`.

It has what each public module exports, with the signatures as they are written, what classes have,
and what they derive from. `tests/test_api.py` compares it with the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import types
from pathlib import Path
from typing import Any, get_args, get_overloads

FILE = Path(__file__).parents[1] / "api.txt"
REWRITE = "uvx nox -s api"

OURS = "aioapiqueue"
INTEGRATIONS = (
    *("aiobotocore", "aiohttp", "botocore", "http", "httpx", "httpx2", "langchain", "llama_index"),
    *("llm", "logging", "opentelemetry", "prometheus", "pydantic_ai", "redis", "report"),
    *("requests", "telegram"),
)
PUBLIC = (
    OURS,
    *(f"{OURS}.{name}" for name in ("adaptive", "exceptions", "registry", "schedules")),
    *(f"{OURS}.{name}" for name in ("testing", "threads")),
    *(f"{OURS}.integrations.{name}" for name in INTEGRATIONS),
)
"""The modules that users import. What is elsewhere may change without notice."""

PLUMBING = frozenset({"HttpPacer", "HttpxPacer", "Wire"})
"""Bases of integrations whose methods are for those who write one (see integrations/http.py)."""
WIDTH = 100
"""Signatures that are longer have a line for each parameter, so that a diff shows which changed."""
SET = re.compile(r"^\s+self\.([a-z]\w*)((?:: [^=]+?)?) =", re.MULTILINE)
SYNTAX = frozenset(
    f"__{name}__"
    for name in (
        *("aenter", "aexit", "enter", "exit", "await", "call", "aiter", "anext", "iter"),
        *("len", "getitem", "contains", "delitem"),
    )
)
"""What `with`, `await` and the like need of a class."""


def api() -> str:
    """Return the whole public API, as the file has it."""
    return "\n".join(line for name in PUBLIC for line in module_lines(name))


def module_lines(name: str) -> list[str]:
    """Describe what a module exports."""
    module = importlib.import_module(name)
    lines = [f"[{name}]"]
    for export in sorted(module.__all__):
        lines += export_lines(name, export, getattr(module, export))
    return [*lines, ""]


def export_lines(module: str, name: str, thing: Any) -> list[str]:
    """Describe one name: where else it is public, or what it is."""
    home = getattr(thing, "__module__", None)
    if home != module and home in PUBLIC and name in importlib.import_module(home).__all__:
        return [f"{name} = {home}.{name}"]
    if inspect.isclass(thing):
        return class_lines(name, thing)
    if inspect.isroutine(thing):
        return function_lines("def", name, thing)
    if isinstance(thing, types.UnionType):
        return [f"{name} = {' | '.join(full_name(one) for one in get_args(thing))}"]
    return [f"{name}: {full_name(type(thing))}"]


def class_lines(name: str, cls: Any) -> list[str]:
    """Describe a class: what it derives from, and what it has of its own or of private bases."""
    bases = ", ".join(full_name(base) for base in cls.__bases__ if base is not object)
    frozen = dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    found: dict[str, list[str]] = {}
    for owner in reversed(cls.__mro__):
        if owner is cls or (is_ours(owner) and owner.__name__ not in PLUMBING):
            found |= members(owner)
    if getattr(cls, "_is_protocol", False):
        found.pop("__init__", None)  # nobody makes one
    lines = [f"    {line}" for key in sorted(found) for line in found[key]]
    return [f"class {name}({bases}):{' frozen' if frozen else ''}", *lines]


def members(owner: type) -> dict[str, list[str]]:
    """Describe what a class itself has: fields, methods, properties, and what `__init__` sets."""
    fields = inspect.get_annotations(owner)
    found = {key: [f"{key}: {annotation(fields[key])}"] for key in fields if is_public(key)}
    for key, value in vars(owner).items():
        shown = is_public(key) or key in SYNTAX or key == "__init__"
        # One that only says what to use instead is no attribute.
        if shown and key not in found and hasattr(owner, key):
            found[key] = member_lines(key, value)
    if inspect.isfunction(vars(owner).get("__init__")) and not dataclasses.is_dataclass(owner):
        for key, kind in SET.findall(inspect.getsource(owner.__init__)):
            found.setdefault(key, [f"{key}{kind}"])
    return found


def member_lines(name: str, value: object) -> list[str]:
    """Describe what a class has under a name."""
    if isinstance(value, property):
        returned = annotation(inspect.signature(value.fget).return_annotation)
        return [f"{name}: {returned}{'' if value.fset else ' (read-only)'}"]
    if isinstance(value, classmethod | staticmethod):
        return function_lines(type(value).__name__, name, value.__func__)
    if inspect.isfunction(value):
        return function_lines("def", name, value)
    return [name]


def function_lines(kind: str, name: str, function: Any) -> list[str]:
    """Write each signature of a function; a long one has a line for each parameter."""
    head = f"async {kind}" if inspect.iscoroutinefunction(function) else kind
    lines = []
    for one in get_overloads(function) or [function]:
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{head} {name}{signature(one)}")
        if len(text) > WIDTH:
            inside, _, after = text.partition("(")[2].rpartition(")")
            arguments = [f"    {argument}," for argument in split(inside)]
            lines += [f"{head} {name}(", *arguments, f"){after}"]
        else:
            lines.append(text)
    return lines


def signature(function: Any) -> str:
    """Write a signature as its source does, without quotes around what is named as a string."""
    found = inspect.signature(function)
    return re.sub(r"""(: |-> )(["'])(.*?)\2(?= =|, |\)|$)""", r"\1\3", str(found))


def split(text: str) -> list[str]:
    """Part arguments at the commas that are not within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def annotation(value: Any) -> str:
    """Write an annotation; those of a NamedTuple may be references, which print otherwise."""
    return str(getattr(value, "__forward_arg__", value)).strip("'")


def full_name(cls: type) -> str:
    """Name a class; of somebody else's by its package, as the modules within may move."""
    where = cls.__module__ if is_ours(cls) else cls.__module__.partition(".")[0]
    return f"{where}.{cls.__qualname__}".removeprefix("builtins.")


def is_ours(cls: type) -> bool:
    """Tell whether a class is of this package."""
    return cls.__module__.partition(".")[0] == OURS


def is_public(name: str) -> bool:
    """Tell whether users may look at a name."""
    return not name.startswith("_")


if __name__ == "__main__":
    FILE.write_text(api(), encoding="utf-8")
