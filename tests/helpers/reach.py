"""What the classes of the library reach of each other: for tests/test_architecture.py.

As in `wall`, each rule takes sources by module name, and returns a line for each violation.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tests.helpers.wall import Sources, imports_of, is_private, nodes_of, wing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Class(NamedTuple):
    """A class of the library."""

    module: str
    node: ast.ClassDef

    @property
    def own(self) -> Mapping[str, ast.AST]:
        """The private names that it defines: in its body, or of `self` in a method."""
        found: dict[str, ast.AST] = {}
        for node in ast.walk(self.node):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found[name] = node
                case ast.Name(id=name, ctx=ast.Store()):
                    found[name] = node
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    found.setdefault(name, node)
                case ast.Constant(value=str(name)) if name.isidentifier():  # of `__slots__`
                    found.setdefault(name, node)
        return {name: node for name, node in found.items() if is_private(name)}

    def reads(self) -> set[str]:
        """Return the private names that it reads, of itself or of whatever it calls itself."""
        nodes = ast.walk(self.node)
        return {one.attr for one in nodes if isinstance(one, ast.Attribute) if is_private(one.attr)}


@cache
def _classes(source: str) -> Sequence[ast.ClassDef]:
    return [node for node in nodes_of(source) if isinstance(node, ast.ClassDef)]


def _class_called(sources: Sources, module: str, name: str) -> Class | None:
    """Return a class of the library by a name, perhaps with dots, in one of its modules."""
    if module not in sources:
        return None
    first, _, rest = name.partition(".")
    for node in _classes(sources[module]):
        if node.name == name:
            return Class(module, node)
    for node in nodes_of(sources[module]):  # another name for it
        match node:
            case ast.Assign(targets=[ast.Name(known)], value=ast.Name() | ast.Attribute() as same):
                if known == name:
                    return _class_called(sources, module, ast.unparse(same))
    for known, target in imports_of(sources, module):
        if known == first:
            inner = ".".join(filter(None, (target.name, rest)))
            return _class_called(sources, target.module, inner) if inner else None
    return None


def _bases(sources: Sources, one: Class) -> Iterator[Class]:
    """Yield the classes of the library that a class derives from, the nearest first."""
    for base in one.node.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        found = _class_called(sources, one.module, ast.unparse(plain))
        if found is not None:
            yield found
            yield from _bases(sources, found)


def _is_hook(node: ast.AST) -> bool:
    """Return whether a method is made to be overridden: it only raises, or is abstract."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    last = node.body[-1]
    is_abstract = any("abstract" in ast.unparse(one) for one in node.decorator_list)
    return is_abstract or (isinstance(last, ast.Raise) and "NotImplemented" in ast.unparse(last))


def inherited_reach(sources: Sources) -> list[str]:
    """Return private names of another wing's class that a class reads, or overrides."""
    wrong = []
    for module, source in sources.items():
        for node in _classes(source):
            one = Class(module, node)
            bases = list(_bases(sources, one))
            near = [base for base in bases if wing(base.module) == wing(module)]
            own = {name for each in (one, *near) for name in each.own}
            for base in bases:
                if wing(base.module) == wing(module):
                    continue
                hooks = {name for name, what in base.own.items() if _is_hook(what)}
                theirs = base.own.keys() - hooks
                reads = {name for each in (one, *near) for name in each.reads()}
                reached = (reads - own) & theirs | one.own.keys() & theirs
                at = f"{module}.{node.name}({base.module}.{base.node.name})"
                wrong += [f"{at}: {name}" for name in sorted(reached)]
    return wrong


def names_of_several(sources: Sources) -> set[str]:
    """Return the names that more than one class of the library has."""
    names = [node.name for source in sources.values() for node in _classes(source)]
    return {name for name in names if names.count(name) > 1}


# Calls and dispatchers, which other wings know as slots and queues.

MAKES_DISPATCHERS = "_shared.host_hub"
"""The part of the library that has a dispatcher of its own for each quota."""


def reaches_calls(sources: Sources) -> list[str]:
    """Return the ways from a queue to its dispatcher, or from a slot to its call, in other wings.

    `_shared` has limiters, which are given calls, and may find those of their own kind.
    """
    wrong = []
    for name, source in sources.items():
        casts = _names_of_cast(source)
        for node in nodes_of(source) if wing(name) != "core" else ():
            match node:
                case (
                    ast.Name(id="dispatcher_of")
                    | ast.alias(name="dispatcher_of")
                    | ast.Attribute(attr="dispatcher_of")
                ):
                    wrong.append(f"{name}: dispatcher_of")
                case ast.Attribute(attr="dispatcher") if not name.startswith(MAKES_DISPATCHERS):
                    wrong.append(f"{name}: {ast.unparse(node)}")
                case ast.Attribute(ast.Name("Call" | "DetailedCall") | ast.Attribute(), "of"):
                    if ast.unparse(node.value).rpartition(".")[2] in {"Call", "DetailedCall"}:
                        wrong.append(f"{name}: {ast.unparse(node)}")
                case ast.Call(func=ast.Name(last) | ast.Attribute(attr=last)) if last in casts:
                    kinds = [*node.args[:1], *(one.value for one in node.keywords)]
                    if any(_CALL.search(ast.unparse(kind)) for kind in kinds):
                        wrong.append(f"{name}: {ast.unparse(node)}")
    return wrong


_CALL = re.compile(r"\b\w*Call\b")


@cache
def _names_of_cast(source: str) -> set[str]:
    """Return the names by which a source may call `typing.cast`."""
    imports = (one for one in nodes_of(source) if isinstance(one, ast.ImportFrom))
    names = (name for one in imports for name in one.names)
    return {"cast"} | {name.asname or "cast" for name in names if name.name == "cast"}
