"""The API reference in a terminal: the docstrings of the classes and functions in docs/api.md."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import textwrap
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, ForwardRef

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["describe", "entries", "find_alike", "find_entry", "list_entries"]

_LINE = re.compile(
    r"^(?:## (?P<heading>.+)|\.\. currentmodule:: (?P<module>\S+)|\.\. auto\w+:: (?P<name>\S+))$",
    re.MULTILINE,
)
_PACKAGE = "aioapiqueue"
_WIDTH = 80


def _lines(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the headings of the page ("heading"), and the full names under each ("name")."""
    module = _PACKAGE
    for found in _LINE.finditer(page.read_text("utf-8")):
        if found["heading"]:
            yield "heading", found["heading"]
        elif found["module"]:
            module = found["module"]
        else:
            name = found["name"]
            yield "name", name if name.startswith(f"{_PACKAGE}.") else f"{module}.{name}"


def entries(page: Path) -> list[str]:
    """Return the full names that the page lists.

    Args:
        page: docs/api.md.
    """
    return [text for kind, text in _lines(page) if kind == "name"]


def list_entries(page: Path) -> str:
    """Return the names that the page lists, under its headings.

    Args:
        page: docs/api.md.
    """
    text = ""
    for kind, line in _lines(page):
        shown = line.removeprefix(f"{_PACKAGE}.")
        text += f"\n{line}\n" if kind == "heading" else f"  {shown}\n"
    return f"{text.lstrip()}\nTo print an entry: aioapiqueue docs NAME, such as ApiQueue.slot\n"


def find_entry(page: Path, name: str) -> str | None:
    """Return the full name of an entry or of one of its members; None if there is no such name.

    Args:
        page: docs/api.md.
        name: the name that a user wrote: `ApiQueue`, `ApiQueue.slot`.
    """
    wanted = name.removesuffix("()")
    owner, _, member = wanted.rpartition(".")
    for entry in entries(page):
        if f".{entry}".endswith(f".{wanted}"):
            return entry
        is_of = owner and not member.startswith("_") and f".{entry}".endswith(f".{owner}")
        if is_of and hasattr(thing := _resolve(entry), member):
            is_shown = _has_own_doc(inspect.getattr_static(thing, member))
            return f"{entry}.{member}" if is_shown else entry  # a class describes its fields
    return None


def find_alike(page: Path, name: str) -> list[str]:
    """Return the entries and members that have a name, in any case, in the form that `docs` takes.

    Args:
        page: docs/api.md.
        name: the name that a user wrote. The members of the package's own classes are also found
            without the class: `slot`.
    """
    wanted = name.removesuffix("()").lower()
    owner, _, member = wanted.rpartition(".")
    found: list[str] = []
    for entry in entries(page):
        module, _, short = entry.rpartition(".")
        if f".{entry.lower()}".endswith(f".{wanted}"):
            found.append(short)
        elif f".{entry.lower()}".endswith(f".{owner}") if owner else module == _PACKAGE:
            with contextlib.suppress(LookupError):  # an extra is missing
                members = [one for one, _ in _members(_resolve(entry)) if one.lower() == member]
                found += [f"{short}.{one}" for one in members]
    return found


def describe(name: str) -> str:
    """Return the signature and the docstring of a class, function or member, by its full name.

    Raises:
        LookupError: it cannot be imported and has no docstring in our source. The message is for
            users.
    """
    try:
        thing = _resolve(name)
    except LookupError as error:
        if not (doc := _doc_in_source(name)):
            raise
        why = str(error).partition(": ")[2]
        return f"{name}\n\n{_wrapped(doc)}\n\nIts signature and members are not shown: {why}\n"
    if isinstance(thing, types.UnionType):
        return f"{name} = {' | '.join(one.__name__ for one in thing.__args__)}\n"
    if not (inspect.isclass(thing) or inspect.isroutine(thing) or isinstance(thing, property)):
        return f"{name} = {thing}\n"
    text = f"{_signature(name, thing)}\n\n{_wrapped(inspect.getdoc(thing) or '')}".rstrip() + "\n"
    if members := list(_members(thing)):
        width = max(len(one) for one, _ in members)
        text += "\nMembers:\n"
        for one, summary in members:
            shown = textwrap.shorten(summary, _WIDTH - width - 6, placeholder=" ...")
            text += f"    {one.ljust(width)}  {shown}".rstrip() + "\n"
        methods = [one for one, _ in members if callable(getattr(thing, one))]
        short = f"{name.rpartition('.')[2]}.{(methods or [members[0][0]])[0]}"
        text += f"\nTo print a member: aioapiqueue docs {short}\n"
    return text


def _resolve(name: str) -> Any:  # noqa: ANN401 - whatever is public
    parts = name.split(".")
    # The longest name that is a module; the rest are attributes.
    for end in range(len(parts) - 1, 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                continue  # this part of the name is a class, not a module
            raise LookupError(f"cannot show {name}: {error}") from None
        except ImportError as error:
            raise LookupError(f"cannot show {name}: {error}") from None
        for part in parts[end:]:
            thing = getattr(thing, part)
        return thing
    raise LookupError(f"there is no {name}")  # pragma: no cover - the page is tested


def _doc_in_source(name: str) -> str | None:
    """Return the docstring of a class or function whose module cannot be imported."""
    module, _, wanted = name.rpartition(".")
    # The public module may import the name from one of its own.
    place = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    for file in (place.with_suffix(".py"), *sorted(place.glob("*.py"))):
        if file.is_file():
            for node in ast.parse(file.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == wanted:
                    return ast.get_docstring(node)
    return None


def _wrapped(doc: str) -> str:
    """Return a docstring in lines that fit `_WIDTH`. Examples are not changed."""
    return "\n\n".join(
        block if block.startswith(">>>") else "\n".join(_filled(block))
        for block in doc.split("\n\n")
    )


def _filled(block: str) -> Iterator[str]:
    """Yield the lines of a block, which is a paragraph or a list."""
    items: list[list[str]] = []
    for line in block.splitlines():
        if not items or _ITEM.match(line) or items[-1][0].endswith(":"):
            items.append([line])
        else:
            items[-1].append(line)
    for first, *more in items:
        indent = " " * (len(first) - len(first.lstrip()))
        hanging = f"{indent}{'  ' if first.lstrip().startswith('- ') else '    '}"
        yield from textwrap.wrap(
            " ".join([first.strip(), *map(str.strip, more)]),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=hanging if _ITEM.match(first) else indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]


_ITEM = re.compile(r"- |    [\w*]+: |[A-Z]\w+:$")
"""A line that begins an item of a list or of `Args:` and the like, or that is their heading."""


def _signature(name: str, thing: Any) -> str:  # noqa: ANN401 - as above
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    result = signature.return_annotation
    wanted = result not in {inspect.Signature.empty, None, "None"}
    arrow = f" -> {_annotation(result)}" if wanted else ""
    rows = list(_parameters(signature))
    line = f"{name}({', '.join(rows)}){arrow}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in rows), f"){arrow}"])


def _annotation(one: object) -> str:
    if isinstance(one, ForwardRef):
        return one.__forward_arg__
    return one if isinstance(one, str) else inspect.formatannotation(one)


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    """Yield the parameters, with a `*` before the keyword-only ones."""
    positional = True
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and positional:
            yield "*"
        if one.kind in (one.VAR_POSITIONAL, one.KEYWORD_ONLY):
            positional = False
        if one.name in {"self", "unknown"}:  # `**unknown` refuses mistyped options
            continue
        mark = "*" * (one.kind is one.VAR_POSITIONAL) + "**" * (one.kind is one.VAR_KEYWORD)
        text = f"{mark}{one.name}"
        if one.annotation is not one.empty:
            text += f": {_annotation(one.annotation)}"
        yield text if one.default is one.empty else f"{text} = {one.default!r}"


def _members(thing: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - as above
    """Yield the public methods and properties of a class, each with its first line."""
    if not inspect.isclass(thing):
        return
    ours = [one for one in thing.__mro__ if one.__module__.startswith("aioapiqueue.")]
    found: dict[str, object] = {}
    for owner in ours:  # a member of a subclass replaces an inherited one
        found = {**found, **{one: it for one, it in vars(owner).items() if one not in found}}
    for one, value in found.items():
        if _has_own_doc(value) and not one.startswith("_"):
            doc = inspect.getdoc(getattr(thing, one)) or ""
            yield one, " ".join(doc.partition("\n\n")[0].split())


def _has_own_doc(value: object) -> bool:
    """Return whether this is a method or a property, not a field."""
    return callable(value) or isinstance(value, property | classmethod | staticmethod)
