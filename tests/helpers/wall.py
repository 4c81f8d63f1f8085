"""Who imports what, and what each class of the library reaches: for tests/test_architecture.py.

Each rule takes sources by module name ("registry._names": "import ..."), so that a test can plant a
violation, and returns a line for each violation that it finds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import aioapiqueue

ROOT = Path(aioapiqueue.__file__).parent
TESTS = Path(__file__).parents[1]
APART = ROOT / "hub" / "bootstrap"  # runs in other programs, without aioapiqueue
PACKAGE = "aioapiqueue"
CORE = ("exceptions", "_limits", "_core")
PROGRAMS = ("hub", "gateway", "cli", "demo", "__main__")
ORDER = (  # each may import the rooms before it
    *((one,) for one in (*CORE, "spi", PACKAGE, "_server_quotas", "adaptive", "threads")),
    *((one,) for one in ("testing", "_recording", "_shared", "schedules", "registry")),
    ("integrations",),
    PROGRAMS,
)
LOADED_LATE = {"demo.demonstration", "demo.moto_server", "gateway.environment"}
"""Doors of programs that are apart: they need an extra, or must not need the program's own."""
Sources = Mapping[str, str]


@cache
def library() -> Sources:
    """Return the source of each module, by its name without the package's own."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        if APART not in file.parents:
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            found[name or PACKAGE] = file.read_text("utf-8")
    return found


@cache
def _tree(source: str) -> ast.Module:
    return ast.parse(source)


def room(name: str) -> str:
    """Return the first part of a module's name: its room at the root of the package."""
    return name.partition(".")[0]


def wing(name: str) -> str:
    """Return the wing of a module: its room, or the wing that several rooms belong to."""
    if room(name) in CORE:
        return "core"
    if name == "__main__":  # the command, before its extra is known to be installed
        return "cli"
    is_shared = name == "schedules" or name.startswith("integrations.redis")
    return "_shared" if is_shared else room(name)  # those are public faces of `_shared`


class Import(NamedTuple):
    """A module that is imported, and a name in it (None: the module itself)."""

    module: str
    name: str | None = None


def _short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


@cache
def _written_imports(source: str) -> Sequence[tuple[str, str, str | None]]:
    """Return what a source imports of the library: the name there, the module, a name in it."""
    found: list[tuple[str, str, str | None]] = []
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            found += [(one.asname or one.name, one.name, None) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found += [(one.asname or one.name, module, one.name) for one in node.names]
    return [one for one in found if room(one[1]) == PACKAGE]


def imports_of(sources: Sources, name: str) -> Iterator[tuple[str, Import]]:
    """Yield what a module imports of the library anywhere, by the name that it has there."""
    for known, module, part in _written_imports(sources[name]):
        inner = _short(f"{module}.{part}")
        if part is not None and inner in sources and inner != PACKAGE:  # a module of a package
            yield known, Import(inner)
        else:
            yield known, Import(_short(module), part)


def graph(sources: Sources) -> Mapping[str, set[str]]:
    """Return which modules each module imports, also those for types only."""
    found: dict[str, set[str]] = {}
    for name in sources:
        found[name] = {one.module for _, one in imports_of(sources, name)} - {name}
        found[name] = {one for one in found[name] if not one.startswith("hub.bootstrap.")}
        if name == PACKAGE:  # it loads the rest of the package at its first use
            found[name] = {one for one in found[name] if room(one) in CORE}
    return found


def circles(imports: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return each set of modules that import each other in a circle (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in imports.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in imports:
        if name not in index:
            visit(name)
    return found


def upward(sources: Sources) -> list[str]:
    """Return imports of a room that comes later in `ORDER`."""
    places = {one: place for place, rooms in enumerate(ORDER) for one in rooms}
    return [
        f"{name} imports {other}"
        for name, others in graph(sources).items()
        for other in sorted(others)
        if places[room(other)] > places[room(name)]
    ]


def past_doors(sources: Sources) -> list[str]:
    """Return imports of another wing that do not use its door.

    The core has `spi` and its public names. A room with an underscore has its package; a program
    has its package, `spi`, and `LOADED_LATE`. Any other wing has its modules without an underscore.
    """
    wrong = []
    for name in sources:
        if name in {PACKAGE, "spi"}:  # they are the doors of the core
            continue
        for other in sorted(graph(sources)[name]):
            if wing(other) == wing(name) or other in {"exceptions", PACKAGE}:
                continue
            first, *inner = other.split(".")
            if first in PROGRAMS:
                is_inside = inner not in ([], ["spi"]) and other not in LOADED_LATE
            elif first.startswith("_"):
                is_inside = bool(inner)
            else:
                is_inside = any(part.startswith("_") for part in inner)
            if wing(other) == "core" or is_inside:
                wrong.append(f"{name} imports {other}")
    return wrong


def reaches_calls(sources: Sources) -> list[str]:
    """Return uses of `dispatcher_of`, and casts to `Call`, outside of the core."""
    wrong = []
    for name, source in sources.items():
        for node in ast.walk(_tree(source)) if wing(name) != "core" else ():
            match node:
                case ast.Name(id="dispatcher_of") | ast.alias(name="dispatcher_of"):
                    wrong.append(f"{name}: dispatcher_of")
                case ast.Call(func=ast.Name(id="cast"), args=[kind, _]):
                    if ast.unparse(kind).strip("'\"").rpartition(".")[2] == "Call":
                        wrong.append(f"{name}: {ast.unparse(node)}")
    return wrong


# Private names in tests.

DOORS = {f"{PACKAGE}.{room}" for room in ("_recording", "_server_quotas", "_shared")}
"""Packages with an underscore that are doors: tests may import what their `__all__` lists."""
_NAMED = re.compile(
    rf"from ({PACKAGE}[\w.]*) import (\([^)]*\)|[^\n;\"']*)|\b({PACKAGE}(?:\.\w+)+)"
)
"""An import of names from a module, or a name with dots."""
_SET = re.compile(r"""setattr\(\s*[\w.]+,\s*["'](_\w+)""")


def tests() -> Sources:
    """Return the source of each file of tests, by its path from the folder "tests".

    The mutants are left out: they change the source of private modules, which they name.
    """
    files = sorted(TESTS.rglob("*.py"))
    found = {file.relative_to(TESTS).as_posix(): file.read_text("utf-8") for file in files}
    return {name: source for name, source in found.items() if not name.startswith("mutants/")}


def private_names(source: str) -> set[str]:
    """Return the private names of the library that a test file has, with their modules.

    A name is private if it, or its module, has an underscore. It counts wherever it stands: in an
    import, in a string, as `monkeypatch.setattr` takes it, or in a program that a test runs. A
    private module that is imported counts as one name, whatever the file reads of it.
    """
    found = set()
    for module, names, dotted in _NAMED.findall(source):
        each = [one.split() for one in names.strip("()").split(",")]
        found |= {f"{module}.{words[0]}" for words in each if words} or {dotted}
    return {name for name in found if not _is_allowed(name)}


def set_privately(source: str) -> list[str]:
    """Return the private names that a test file sets on an object, a module for instance."""
    return _SET.findall(source)


def _is_allowed(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if name in DOORS or not any(map(_is_private, name.split("."))):
        return True
    return module in DOORS and last in exports(library()[_short(module)])


# Classes.


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
        return {name: node for name, node in found.items() if _is_private(name)}

    def reads(self) -> set[str]:
        """Return the private names that it reads of `self`, `cls` or `super()`."""
        return {
            node.attr
            for node in ast.walk(self.node)
            if isinstance(node, ast.Attribute) and _is_private(node.attr)
            if ast.unparse(node.value) in {"self", "cls", "super()"}
        }


def _is_private(name: str) -> bool:
    return len(name) > 1 and name.startswith("_") and not name.endswith("__")


@cache
def _classes(source: str) -> Sequence[ast.ClassDef]:
    return [node for node in ast.walk(_tree(source)) if isinstance(node, ast.ClassDef)]


def _class_called(sources: Sources, module: str, name: str) -> Class | None:
    """Return a class of the library by a name, perhaps with dots, in one of its modules."""
    if module not in sources:
        return None
    first, _, rest = name.partition(".")
    for node in _classes(sources[module]):
        if node.name == name:
            return Class(module, node)
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
                reached = (one.reads() - own) & theirs | one.own.keys() & theirs
                at = f"{module}.{node.name}({base.module}.{base.node.name})"
                wrong += [f"{at}: {name}" for name in sorted(reached)]
    return wrong


def names_of_several(sources: Sources) -> set[str]:
    """Return the names that more than one class of the library has."""
    names = [node.name for source in sources.values() for node in _classes(source)]
    return {name for name in names if names.count(name) > 1}


# Files, and the door of the core.


def too_long(files: Mapping[str, int], *, most: int, data: Collection[str]) -> list[str]:
    """Return the files with more lines than that, without those that are data."""
    return [
        f"{name}: {count}" for name, count in files.items() if count > most and name not in data
    ]


def lengths() -> Mapping[str, int]:
    """Return the number of lines of each Python and Lua file of the library."""
    files = [file for kind in ("*.py", "*.lua") for file in sorted(ROOT.rglob(kind))]
    return {str(file.relative_to(ROOT)): file.read_text("utf-8").count("\n") for file in files}


def exports(source: str) -> Sequence[str]:
    """Return the names in `__all__`."""
    for node in _tree(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def unused_exports(sources: Sources, module: str) -> list[str]:
    """Return the names in `__all__` of a module that no other module imports from it."""
    used = {
        target.name
        for name in sources
        if name != module
        for _, target in imports_of(sources, name)
        if target.module == module
    }
    return [name for name in exports(sources[module]) if name not in used]
