"""What a security review of an installed package searches for; `findings` reads, and runs nothing.

The library has none of it: no server for TLS or HTTP, no listener but on the path of a file (the
host hub), and nothing that Python runs as it starts. `aioapiqueue-run` has all of it.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Finding", "findings"]

KINDS = re.compile(
    r"""
    (?P<tls> (?:OpenSSL|cryptography|trustme)(?:\..*)?
        | (?:.*\.)?(?:CLIENT_AUTH|PROTOCOL_SSLv23|PROTOCOL_TLS|PROTOCOL_TLS_SERVER|TLSListener
            |load_cert_chain|set_servername_callback|sni_callback)
    )
    | (?P<http> (?:aiohttp\.web|fastapi|flask|gunicorn|h11|h2|http\.server|hypercorn|socketserver
            |starlette|tornado|twisted|uvicorn|werkzeug|wsgiref|xmlrpc\.server)(?:\..*)?
        | HTTP/[12](?s:.*)
    )
    | (?P<listener> (?:.*\.)?(?:create_server|create_tcp_listener|create_udp_socket
            |open_tcp_listeners|serve_tcp|start_server)
    )
    | (?P<start> (?:.*\.)?(?:sitecustomize|usercustomize)(?:\.py)?)
    """,
    re.VERBOSE,
)
"""Modules, other names and the first line of a response, by the kind of what is found."""
SERVER_SIDE = {"wrap_bio": 2, "wrap_socket": 1}
"""Methods that take `server_side`, and its place among their arguments."""


class Finding(NamedTuple):
    """A line of a file, or the whole file.

    Attributes:
        kind: `"tls"`, `"http"`, `"listener"` or `"start"` (Python runs it as it starts).
        place: the file and the line.
        what: what was found there.
    """

    kind: str
    place: str
    what: str


def findings(folder: Path) -> list[Finding]:
    """Return all that a review has to look at in the files of a folder."""
    found = []
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder).as_posix()
        if file.stem in {"sitecustomize", "usercustomize"} or file.suffix == ".pth":
            found.append(Finding("start", place, file.name))
        if file.suffix == ".py" and file.is_file():
            tree = ast.parse(file.read_text("utf-8"))
            found += [Finding(kind, f"{place}:{line}", what) for kind, line, what in _in(tree)]
    return [*dict.fromkeys(found)]


def _in(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    nodes = [*ast.walk(tree)]
    statements = [node.value for node in nodes if isinstance(node, ast.Expr)]
    docstrings = {id(value) for value in statements if isinstance(value, ast.Constant)}
    names = [
        (name, node.lineno) for node in nodes if id(node) not in docstrings for name in _names(node)
    ]
    for name, line in names:
        if (match := KINDS.fullmatch(name)) and match.lastgroup:
            yield match.lastgroup, line, name
    has_sockets = any(name.partition(".")[0] in {"socket", "_socket"} for name, _ in names)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    to_path = any(_binds_to_path(node) for node in calls)
    for call in calls:
        yield from _in_call(call, has_sockets=has_sockets, to_path=to_path)


def _names(node: ast.AST) -> Iterator[str]:
    """Yield each name that a node uses: of a module, an attribute, an argument or in a string."""
    match node:
        case ast.Import(names=names):
            yield from (one.name for one in names)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            yield module
            yield from (f"{module}.{one.name}" for one in names)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            yield name
        case ast.Constant(value=str(text)):
            yield text
        case ast.Constant(value=bytes(data)):
            yield data.decode("latin-1")


def _in_call(node: ast.Call, *, has_sockets: bool, to_path: bool) -> Iterator[tuple[str, int, str]]:
    """Yield what one call does, in a module that uses sockets, and binds one of them to a path."""
    name = getattr(node.func, "attr", None)
    sides = [one.value for one in node.keywords if one.arg == "server_side"]
    if name in SERVER_SIDE:
        sides += node.args[SERVER_SIDE[name] :][:1]
    if any(not isinstance(side, ast.Constant) or side.value for side in sides):
        yield "tls", node.lineno, "server_side"
    # Others have methods of this name: that of our loops takes a loop.
    is_address = bool(node.args) and (has_sockets or isinstance(node.args[0], ast.Tuple))
    if name == "bind" and is_address and not _binds_to_path(node):
        yield "listener", node.lineno, "bind"
    # A socket that listens without an address is given a port of all interfaces.
    if name == "listen" and not to_path:
        yield "listener", node.lineno, "listen"


def _binds_to_path(node: ast.AST) -> bool:
    """Return whether this is `socket.bind(os.fspath(...))`: only a Unix socket has a path."""
    match node:
        case ast.Call(
            func=ast.Attribute(attr="bind"),
            args=[ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="fspath"))],
        ):
            return True
    return False
