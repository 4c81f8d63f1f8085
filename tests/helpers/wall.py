"""Which modules and names each module uses, of the library or its programs: for test_architecture.

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
import aioapiqueue_run

ROOT = Path(aioapiqueue.__file__).parent
ROOT_OF_PROGRAMS = Path(aioapiqueue_run.__file__).parent
APART = ROOT_OF_PROGRAMS / "bootstrap"  # runs in other programs, without aioapiqueue
PACKAGE, PACKAGE_OF_PROGRAMS = PACKAGES = ("aioapiqueue", "aioapiqueue_run")
CORE = ("exceptions", "_limits", "_core")
PROGRAMS = ("hub", "gateway", "cli", "demo", PACKAGE_OF_PROGRAMS, "__main__")
ORDER = (  # each may import the rooms before it
    *((one,) for one in (*CORE, "spi", PACKAGE, "_server_quotas", "adaptive", "threads")),
    *((one,) for one in ("testing", "recording", "_shared", "schedules", "registry")),
    *((one,) for one in ("integrations", "docs")),
    PROGRAMS,
)
LOADED_LATE = {"demo.demonstration", "gateway.environment"}
"""Doors of programs that are apart: they need an extra, or must not need the program's own."""
PARTS = {"common": (), "host": ("common",), "host_hub": ("common", "host"), "redis": ("common",)}
"""Parts of `_shared`, and which others each may import; its own modules are "common"."""
Sources = Mapping[str, str]


@cache
def library() -> Sources:
    """Return the source of each module of both distributions.

    By its name without that of its package: no room of the programs is named like one of the
    library.
    """
    found: dict[str, str] = {}
    for package, root in ((PACKAGE, ROOT), (PACKAGE_OF_PROGRAMS, ROOT_OF_PROGRAMS)):
        for file in sorted(root.rglob("*.py")):
            if APART not in file.parents:
                parts = file.relative_to(root).with_suffix("").parts
                name = ".".join(part for part in parts if part != "__init__") or package
                assert name not in found, name
                found[name] = file.read_text("utf-8")
    return found


@cache
def bootstrap() -> Sources:
    """Return the source of each module that goes into other programs, by its path."""
    files = sorted(APART.rglob("*.py"))
    return {str(file.relative_to(APART)): file.read_text("utf-8") for file in files}


@cache
def tree_of(source: str) -> ast.Module:
    """Return the syntax tree of a source."""
    return ast.parse(source)


@cache
def nodes_of(source: str) -> Sequence[ast.AST]:
    """Return all nodes of a source."""
    return list(ast.walk(tree_of(source)))


def room(name: str) -> str:
    """Return the first part of a module's name: its room at the root of the package."""
    return name.partition(".")[0]


def wing(name: str) -> str:
    """Return the wing of a module: its room, or the wing that several rooms belong to."""
    if room(name) in CORE:
        return "core"
    if name == "__main__":  # the command, before its extra is known to be installed
        return "cli"
    if room(name) == "bootstrap":  # a client of the hub
        return "hub"
    is_shared = room(name) == "schedules" or name.startswith("integrations.redis")
    return "_shared" if is_shared else room(name)  # those are public faces of `_shared`


class Import(NamedTuple):
    """A module, and a name in it that is imported or used (None: the module itself).

    A name with a dot stands for what a module has that is a name of another: "statements.Hold".
    """

    module: str
    name: str | None = None


def _short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.").removeprefix(f"{PACKAGE_OF_PROGRAMS}.")


@cache
def _written_imports(source: str) -> Sequence[tuple[str, str, str | None]]:
    """Return what a source imports of the library: the name there, the module, a name in it."""
    found: list[tuple[str, str, str | None]] = []
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            found += [(one.asname or one.name, one.name, None) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found += [(one.asname or one.name, module, one.name) for one in node.names]
    return [one for one in found if room(one[1]) in PACKAGES]


def imports_of(sources: Sources, name: str) -> Iterator[tuple[str, Import]]:
    """Yield what a module imports of the library anywhere, by the name that it has there."""
    for known, module, part in _written_imports(sources[name]):
        inner = _short(f"{module}.{part}")
        if part is not None and inner in sources and inner not in PACKAGES:  # a module of a package
            yield known, Import(inner)
        else:
            yield known, Import(_short(module), part)


@cache
def _dotted_names(source: str) -> set[tuple[str, ...]]:
    """Return the names with dots in the code of a source, or in `getattr`."""
    found = set()
    inner = {node.value for node in nodes_of(source) if isinstance(node, ast.Attribute)}
    for node in nodes_of(source):
        match node:
            case ast.Attribute() if node not in inner:  # the whole name
                found.add(_words(node))
            case ast.Call(func=ast.Name("getattr"), args=[one, ast.Constant(str(name)), *_]):
                found.add((*_words(one), name))
    return found


@cache
def _in_strings(source: str) -> Sequence[Sequence[str]]:
    """Return the words of each name in a string that may be that of a module, with its package."""
    texts = [
        node.value
        for node in nodes_of(source)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [one.split(".") for one in texts if room(one) in PACKAGES and "." in one]


def _words(node: ast.expr) -> tuple[str, ...]:
    """Return the words of a name with dots; () of any other expression."""
    match node:
        case ast.Name(name):
            return (name,)
        case ast.Attribute(value, name) if words := _words(value):
            return (*words, name)
    return ()


def _inside(module: str, name: str) -> str:
    return name if module in PACKAGES else f"{module}.{name}"


def _follow(sources: Sources, module: str, names: Sequence[str]) -> Import:
    """Follow names from a module into modules inside it; the rest is a name of the last one."""
    rest = list(names)
    while rest and _inside(module, rest[0]) in sources:
        module = _inside(module, rest.pop(0))
    return Import(module, ".".join(rest) or None)


def used_by(sources: Sources, name: str) -> set[Import]:
    """Return what a module uses of the library: in imports, as attributes of modules, in strings.

    "spi.statements.Hold" is a name of `spi`, whatever module defines it.
    """
    known = {**{one: Import(one) for one in PACKAGES}, **dict(imports_of(sources, name))}
    found = {target for _, target in imports_of(sources, name)}
    texts = (_follow(sources, PACKAGE, words[1:]) for words in _in_strings(sources[name]))
    found |= {one for one in texts if one.module not in PACKAGES}  # other texts are a logger's name
    for words in _dotted_names(sources[name]):
        for end in range(len(words) - 1, 0, -1):
            if target := known.get(".".join(words[:end])):
                names = [*filter(None, [target.name]), *words[end:]]
                found.add(_follow(sources, target.module, names))
                break
    return found


def graph(sources: Sources) -> Mapping[str, set[str]]:
    """Return which modules each module uses, also those for types only."""
    found: dict[str, set[str]] = {}
    for name in sources:
        found[name] = {one.module for one in used_by(sources, name)} - {name}
        found[name] = {one for one in found[name] if room(one) != "bootstrap"}
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
    """Return uses of a room that comes later in `ORDER`, or of a part that is not in `PARTS`."""
    places = {one: place for place, rooms in enumerate(ORDER) for one in rooms}
    return [
        f"{name} imports {other}"
        for name, others in graph(sources).items()
        for other in sorted(others)
        if places[room(other)] > places[room(name)] or _is_wrong_part(name, other)
    ]


def _is_wrong_part(name: str, other: str) -> bool:
    ours, theirs = part_of_shared(name), part_of_shared(other)
    if ours is None or theirs is None:
        return False
    return theirs not in {ours, *PARTS[ours]}


def part_of_shared(name: str) -> str | None:
    """Return the part of `_shared` that a module belongs to; None: its door, or another wing."""
    if room(name) == "schedules":
        return "host"
    if name.startswith("integrations.redis"):
        return "redis"
    first, _, rest = name.partition(".")
    if first != "_shared" or not rest:
        return None
    return room(rest) if room(rest) in PARTS else "common"


def past_doors(sources: Sources) -> list[str]:
    """Return uses of another wing that are not through its door, or not of its `__all__`.

    The core has `spi` and its public names. A room with an underscore has its package; a program
    has its package, `spi`, and `LOADED_LATE`. Any other wing has its modules without an underscore.
    """
    wrong = set()
    for name in sources:
        if name in {PACKAGE, "spi"}:  # they are the doors of the core
            continue
        for module, used in used_by(sources, name):
            if wing(module) == wing(name):
                continue
            if not _is_door(module):
                wrong.add(f"{name} imports {module}")
            elif used and module in sources and not _is_exported(sources, module, used):
                wrong.add(f"{name} uses {module}.{used}")
    return sorted(wrong)


def crossings(sources: Sources) -> list[str]:
    """Return each private name of the library, of a module or in one, that the programs use."""
    return [
        f"{name} uses {'.'.join(filter(None, target))}"
        for name in sources
        if room(name) in PROGRAMS
        for target in sorted(used_by(sources, name), key=str)
        if room(target.module) not in {*PROGRAMS, "bootstrap"}
        if any(map(is_private, ".".join(filter(None, target)).split(".")))
    ]


def misplaced(sources: Sources) -> list[str]:
    """Return uses of a room by the name of the package that it is not in.

    `from aioapiqueue import gateway` would fail only when it runs: the other rules know a room
    without its package.
    """
    in_programs = {*PROGRAMS, "bootstrap"} - {PACKAGE_OF_PROGRAMS, "__main__"}
    in_library = {one for rooms in ORDER for one in rooms} - {*PROGRAMS, PACKAGE}
    wrong = {PACKAGE: in_programs, PACKAGE_OF_PROGRAMS: in_library}
    return [
        f"{name} uses {package}.{inner}"
        for name, source in sources.items()
        for package, inner in sorted(_rooms_used(source))
        if inner in wrong[package]
    ]


def _rooms_used(source: str) -> set[tuple[str, str]]:
    """Return each package of ours that a source names, with the name of the room in it."""
    found = [f"{module}.{part or ''}".split(".") for _, module, part in _written_imports(source)]
    found += [*map(list, _dotted_names(source)), *_in_strings(source)]
    return {(words[0], words[1]) for words in found if words[1:] and words[0] in PACKAGES}


def names_programs(sources: Sources) -> list[str]:
    """Return the modules of the library that name the package of the programs in any way.

    Only `__main__` may: it is the command.
    """
    return [
        name
        for name, source in sources.items()
        if room(name) not in PROGRAMS and PACKAGE_OF_PROGRAMS in source
    ]


def imports_ours(sources: Sources) -> list[str]:
    """Return what the bootstrap imports of either package, which other programs may not have."""
    wrong = []
    for name, source in sources.items():
        texts = (words for words in _in_strings(source) if all(map(str.isidentifier, words)))
        found = [*map(".".join, texts)]
        for node in nodes_of(source):
            match node:
                case ast.Import(names):
                    found += [one.name for one in names]
                case ast.ImportFrom(module=str(module), level=0):
                    found.append(module)
        wrong += [f"{name} imports {one}" for one in found if room(one) in PACKAGES]
    return wrong


def _is_door(module: str) -> bool:
    if module in {"exceptions", PACKAGE, "spi"}:
        return True
    first, *inner = module.split(".")
    if first in PROGRAMS:
        return inner in ([], ["spi"]) or module in LOADED_LATE
    if first.startswith("_"):
        return wing(module) != "core" and not inner
    return wing(module) != "core" and not any(part.startswith("_") for part in inner)


def exports(source: str) -> Sequence[str]:
    """Return the names in `__all__`."""
    for node in tree_of(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _module_called(sources: Sources, module: str, name: str) -> str | None:
    """Return the module that has a name in another one, such as `statements` in `spi`."""
    target = dict(imports_of(sources, module)).get(name)
    return None if target is None or target.name is not None else target.module


def _is_exported(sources: Sources, module: str, name: str) -> bool:
    first, _, rest = name.partition(".")
    if first not in exports(sources[module]) and not _OF_PYTHON.fullmatch(first):
        return False
    inner = _module_called(sources, module, first)
    return not rest or inner not in sources or _is_exported(sources, inner, rest)


_OF_PYTHON = re.compile(r"__\w+__")


def door_names(sources: Sources, module: str) -> set[str]:
    """Return all names that a door shows: of a module that it exports whole, those of its own."""
    found = set()
    for name in exports(sources[module]):
        inner = _module_called(sources, module, name)
        whole = exports(sources[inner]) if inner in sources else ()
        found |= {f"{name}.{one}" for one in whole} or {name}
    return found


def unused_names(sources: Sources, modules: Collection[str]) -> list[str]:
    """Return the names that some modules show, and no other module uses there."""
    used = set()
    for other in sources:
        for module, name in used_by(sources, other):
            if module != other and name is not None:
                first, *inner = name.split(".")
                used |= {(module, first), (module, ".".join((first, *inner[:1])))}
    return [
        f"{module}.{name}"
        for module in modules
        for name in sorted(door_names(sources, module))
        if (module, name) not in used
    ]


def is_private(name: str) -> bool:
    """Return whether a name has an underscore, and is not one of Python's own."""
    return len(name) > 1 and name.startswith("_") and not name.endswith("__")


# Files.


def too_long(files: Mapping[str, int], *, most: int) -> list[str]:
    """Return the files with more lines than that."""
    return [f"{name}: {count}" for name, count in files.items() if count > most]


def lengths() -> Mapping[str, int]:
    """Return the number of lines of each Python and Lua file of the library and the programs."""
    return {
        str(file.relative_to(root)): file.read_text("utf-8").count("\n")
        for root in (ROOT, ROOT_OF_PROGRAMS)
        for kind in ("*.py", "*.lua")
        for file in sorted(root.rglob(kind))
    }


def files_of_tests() -> Sequence[Path]:
    """Return each file that has tests, of the library or of its programs."""
    repository = Path(__file__).parents[2]
    folders = (repository / "tests", repository / "run" / "tests")
    return [file for folder in folders for file in sorted(folder.rglob("test_*.py"))]
