"""Private names in tests, benchmarks and programs, for tests/test_private_names.py.

A private name begins with an underscore, or has a part that does: `queue._dispatcher`,
`aioapiqueue._core.queue.dispatcher_of`. A file may use those that it defines itself, and those in
`DOCUMENTED` and `ALLOWED`. For all others, tests have tests/helpers/introspect.py.

The rule reads a source without running it. It cannot see what a public attribute of a private
object is, or a name that is put together at run time.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import aioapiqueue
import aioapiqueue_run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

PACKAGES = ("aioapiqueue", "aioapiqueue_run")
LIBRARY = Path(aioapiqueue.__file__).parent
PROGRAMS = Path(aioapiqueue_run.__file__).parent
ROOT = Path(__file__).parents[2]
BOOTSTRAP = "aioapiqueue_run.bootstrap._aioapiqueue"
INTROSPECT = "tests/helpers/introspect.py"
PLANTED = {
    "tests/helpers/private_names.py",
    "tests/helpers/wall.py",
    "tests/test_architecture.py",
    "tests/test_private_names.py",
}
"""Files with private names as examples, or that plant them in strings."""
OWN = {"self", "cls", "super()"}
DOCUMENTED = {
    "_asdict": "of named tuples",
    "_create_unverified_context": "of `ssl`: PEP 476",
    "_exit": "of `os`",
    "_field_defaults": "of named tuples",
    "_fields": "of named tuples",
    "_replace": "of named tuples",
    "_repr_html_": "of notebooks",
}
"""Private names that the documentation of Python or of a tool tells programs to use."""
ALLOWED = {
    "benchmarks/_lanes.py": {
        "limiter._scheduler": "has no public name",
        "scheduler._look_at": "is counted: a look at a waiting call",
    },
    "benchmarks/_peer_behaviour.py": {"_fut_waiter": "what a task of asyncio waits for"},
    "run/aioapiqueue_run/bootstrap/_aioapiqueue/_botocore_calls.py": {
        "_account_id": "of botocore",
        "_assume_kwargs": "of botocore",
        "_refresh_using": "of botocore",
    },
    "run/aioapiqueue_run/bootstrap/_aioapiqueue/clients.py": {"_credentials": "of botocore"},
    "run/aioapiqueue_run/bootstrap/_aioapiqueue/hook.py": {
        "_aioapiqueue": "ours, on classes of botocore",
    },
    "run/aioapiqueue_run/hub/protocol.py": {f"{BOOTSTRAP}.VERSION": "has its name among others"},
    "run/aioapiqueue_run/hub/spi.py": {f"{BOOTSTRAP}.hosts.labels_of": "as above"},
    "run/tests/cli/test_docs.py": {
        "ApiQueue._hidden": "is refused, because it is private",
        "_protected_args": "what click leaves to the next command",
    },
    "tests/helpers/api_file.py": {"_is_protocol": "Python 3.13 has `typing.is_protocol`"},
    INTROSPECT: {
        "ThrottledRetryableChecker._THROTTLED_ERROR_CODES": "of botocore",
        "client._make_api_call": "what tracers of botocore replace",
        "fetcher._cache": "the roles that botocore has assumed",
        "loop._scheduled": "the timers of a loop of asyncio",
        "session._credentials": "of botocore",
        "session._session": "boto3's session of botocore",
        "_credentials._expiry_time": "of botocore",
    },
    "run/tests/hub/conftest.py": {"_transport": "what asyncio leaves open of a process"},
    "run/tests/hub/test_bootstrap.py": {"_credentials": "of a session of botocore"},
    "run/tests/hub/test_imports.py": {"_find_spec": "Python's own import"},
    "run/tests/hub/test_processes.py": {"_credentials": "of a session of botocore"},
    "run/tests/hub/test_silence.py": {"_scheduled": "the timers of a loop of asyncio"},
    "tests/integrations/llm/test_clients.py": {
        "_max_connections": "of httpx and httpcore, which show no option that they were given",
        "_pool": "as above",
        "_socket_options": "as above",
        "_transport": "as above",
    },
    "run/tests/run/test_activation.py": {"_find_spec": "Python's own import"},
    "run/tests/run/test_launchers.py": {"_make_api_call": "what tracers of botocore replace"},
}
"""Private names that a file may use, with reasons: of other libraries, but for one."""
BY_NAME = {
    *("attrgetter", "methodcaller"),
    *("delattr", "getattr", "hasattr", "setattr", "object"),
    *("delitem", "setitem"),
}
"""Functions that take an attribute, or a key, as a string; `object` is that of `mock.patch`."""
_DOTTED = re.compile(r"\baioapiqueue(?:_run)?(?:\.\w+)+|(?:^|\w+|[)\]])\._[A-Za-z]\w*")
"""In a string: a name of the library with dots, or an attribute that begins with an underscore."""
_IMPORT = re.compile(r"\bfrom (aioapiqueue[\w.]*) import (\([^)]*\)|[^\n;\"']*)")
"""In a string: an import of names."""


def is_private(name: str) -> bool:
    """Return whether a name without dots is private."""
    return len(name) > 1 and name.startswith("_") and not name.endswith("__")


PLACES = ("tests", "run/tests", "run/aioapiqueue_run", "benchmarks")
"""Where the rule applies: to tests, benchmarks and programs."""


def sources(places: Iterable[str] = PLACES) -> Mapping[str, str]:
    """Return the source of each file in some places of the repository, by its path.

    The mutants are left out: they name private modules, since they change the source of those.
    """
    files = [file for place in places for file in sorted(ROOT.glob(f"{place}/**/*.py"))]
    found = {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in files}
    return {
        name: source
        for name, source in found.items()
        if not name.startswith("tests/mutants/") and name not in PLANTED
    }


def private_names(source: str, allowed: Collection[str] = ()) -> list[str]:
    """Return the private names in a source that are not its own, in the order of its lines."""
    nodes = list(ast.walk(ast.parse(source)))
    known = _own_names(nodes) | DOCUMENTED.keys() | set(allowed)
    found = [
        (getattr(node, "lineno", 0), name)
        for node in nodes
        for name in _names_at(node)
        if known.isdisjoint((name, name.rpartition(".")[2]))
    ]
    return [name for _, name in sorted(found)]


def names_used(source: str, allowed: Collection[str] = ()) -> set[str]:
    """Return the private names of the library that a source uses: all that it has to follow.

    An attribute counts with the name of what has it ("limiter._scheduler"). Of a private module,
    each name that a function uses counts, and "module.*" if it is used otherwise: if it is
    returned, for instance.
    """
    found = set()
    for part in ast.parse(source).body:
        names = set(private_names(ast.unparse(part), allowed))
        modules = _modules_imported(part) if isinstance(part, ast.FunctionDef) else {}
        found |= names - set(modules.values())
        for node in ast.walk(part):
            match node:
                case ast.Attribute(value=ast.Name(id=alias), attr=name) if alias in modules:
                    found -= {f"{alias}.{name}"}
                    found.add(f"{modules[alias]}.{name}")
                case ast.Call(args=[ast.Name(id=alias), ast.Constant(value=str(name)), *_]):
                    if alias in modules:
                        found -= {f"{alias}.{name}"}
                        found.add(f"{modules[alias]}.{name}")
        for module in modules.values():
            if not any(one.startswith(f"{module}.") for one in found):
                found.add(f"{module}.*")
    return found


def _modules_imported(part: ast.AST) -> Mapping[str, str]:
    """Return the private modules of the library that a part of a source imports, by alias."""
    return {
        one.asname or one.name: f"{node.module}.{one.name}"
        for node in ast.walk(part)
        if isinstance(node, ast.ImportFrom)
        for one in node.names
        if _is_hidden(f"{node.module}.{one.name}") and _is_module(f"{node.module}.{one.name}")
    }


def _is_module(name: str) -> bool:
    first, _, inner = name.partition(".")
    root = PROGRAMS if first == PROGRAMS.name else LIBRARY
    path = root.joinpath(*inner.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def _names_at(node: ast.AST) -> Iterator[str]:
    """Yield the private names that a node of the syntax tree has itself."""
    match node:
        case ast.Attribute(value=value, attr=name) if is_private(name):
            if ast.unparse(value) not in OWN:
                yield f"{_last(value)}.{name}"
        case ast.Import(names=names):
            yield from filter(_is_hidden, (one.name for one in names))
        case ast.ImportFrom(module=str(module), names=names):
            yield from filter(_is_hidden, (f"{module}.{one.name}" for one in names))
        case ast.Call() | ast.Subscript():
            yield from _names_as_strings(node)
        case ast.Constant(value=str(text)):
            yield from _names_in(text)
        case ast.Constant(value=bytes(text)):
            yield from _names_in(text.decode("latin-1"))


def _names_as_strings(node: ast.Call | ast.Subscript) -> Iterator[str]:
    """Yield the private attributes that a call or a subscript takes as strings."""
    match node:
        case ast.Call(func=function, args=[ast.Constant(value=str(name))]) if is_private(name):
            if _last(function) in BY_NAME:
                yield name
        case ast.Call(func=function, args=[owner, ast.Constant(value=str(name)), *_]):
            if is_private(name) and _last(function) in BY_NAME:
                yield f"{_last(owner)}.{name}"
        case ast.Subscript(value=value, slice=ast.Constant(value=str(name))) if is_private(name):
            if _last(value) in {"vars", "__dict__"}:
                yield name


def _last(node: ast.AST) -> str:
    """Return the last name of an expression: "limiter" of `dispatcher_of(queue).limiter`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner) | ast.Await(value=inner):
            return _last(inner)
    return "..."


def _names_in(text: str) -> Iterator[str]:
    """Yield the private names in a string: a program, or what `monkeypatch.setattr` takes."""
    for module, names in _IMPORT.findall(text):
        each = (one.split() for one in names.strip("()").split(","))
        yield from filter(_is_hidden, (f"{module}.{words[0]}" for words in each if words))
    rest = _IMPORT.sub("", text)
    for name in _DOTTED.findall(rest):
        if not name.startswith(PACKAGES) or _is_hidden(name):
            yield name


def _is_hidden(name: str) -> bool:
    """Return whether a name with dots is one of the library or of tests, and private.

    What a package with an underscore exports is public to all wings, and so to tests.
    """
    first, *parts = name.split(".")
    if first not in {*PACKAGES, "tests"} or not any(map(is_private, parts)):
        return False
    return not (len(parts) <= 2 and parts[0] in _doors() and set(parts[1:]) <= _doors()[parts[0]])


@cache
def _doors() -> Mapping[str, set[str]]:
    """Return what each package with an underscore exports, but for those of the core."""
    found = {}
    for file in LIBRARY.glob("_*/__init__.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[file.parent.name] = set(ast.literal_eval(node.value))
    return found


def _own_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the private names that classes and modules in a source define."""
    found = set()
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                found.add(name)
    return {name for name in found if is_private(name)}
