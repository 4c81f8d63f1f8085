"""What `pip install aioapiqueue` brings: no server for TLS or HTTP, nothing that Python starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import aioapiqueue_run
from tests.helpers.security_review import findings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Give a folder into which the wheel of the library was installed, and nothing else."""
    uv = shutil.which("uv") or pytest.skip("uv builds and installs the wheel")
    folder = tmp_path_factory.mktemp("bare")
    for command in (
        (uv, "build", "--quiet", "--wheel", "--no-sources", f"--out-dir={folder / 'dist'}", ROOT),
        (uv, "pip", "install", "--quiet", "--no-deps", f"--target={folder / 'site'}"),
    ):
        subprocess.run([*command, *folder.glob("dist/*.whl")], check=True, timeout=120)
    return folder / "site"


def found_in(folder, source, name="planted.py"):
    """Return the kinds of what is found in a folder with one module."""
    folder.joinpath(name).write_text(source)
    return {one.kind for one in findings(folder)}


@pytest.mark.real
@pytest.mark.usefixtures("no_collector")
def test_library_serves_no_network(installed):
    """A reviewer of an installation finds no server, no certificates and no `sitecustomize`."""
    assert findings(installed) == []


@pytest.mark.real
def test_library_installs_one_package(installed):
    """No other module, no script but the command, no data elsewhere."""
    top = {file.name.partition("-")[0] for file in installed.iterdir()} - {
        ".lock",
        "bin",
        "Scripts",
    }
    assert top == {"aioapiqueue"}
    assert (installed / "aioapiqueue" / "py.typed").is_file()


@pytest.mark.usefixtures("no_collector")
def test_programs_have_what_is_searched_for():
    """The same search finds the proxy, its certificates and the bootstrap."""
    found = findings(Path(aioapiqueue_run.__file__).parent)
    assert {(one.kind, one.place.partition(":")[0]) for one in found} >= {
        ("start", "bootstrap/sitecustomize.py"),
        ("http", "gateway/server.py"),
        ("listener", "gateway/main.py"),
        ("tls", "gateway/authority.py"),
        ("tls", "gateway/server.py"),
    }


@pytest.mark.parametrize(
    "source",
    [
        "import ssl\nssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)",
        "from ssl import PROTOCOL_TLS_SERVER as p",
        "import ssl\nssl.create_default_context(ssl.Purpose.CLIENT_AUTH)",
        "import ssl\ngetattr(ssl, 'PROTOCOL_TLS_SERVER')",
        "context.load_cert_chain(file)",
        "context.sni_callback = choose",
        "await TLSStream.wrap(stream, server_side=True)",
        "await loop.start_tls(transport, protocol, context, server_side=ours)",
        "context.wrap_socket(sock, True)",
        "context.wrap_bio(one, other, True)",
        "from cryptography import x509",
        "def late():\n    import trustme",
        "import importlib\nimportlib.import_module('cryptography.x509')",
    ],
)
def test_tls_server_is_found(source, tmp_path):
    """By its context, its certificate, its side of a connection, or what makes certificates."""
    assert found_in(tmp_path, source) == {"tls"}


@pytest.mark.parametrize(
    "source",
    [
        "import http.server",
        "from http import server",
        "from http.server import HTTPServer",
        "import wsgiref.simple_server",
        "import socketserver as s",
        "from xmlrpc.server import SimpleXMLRPCServer",
        "import h11",
        "from aiohttp import web",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'http.server'])",
        "writer.write(b'HTTP/1.1 200 OK\\r\\n\\r\\n')",
        "writer.write(f'HTTP/1.1 {status}'.encode())",
    ],
)
def test_http_server_is_found(source, tmp_path):
    """By the module that serves, or by the line with which a response starts."""
    assert found_in(tmp_path, source) == {"http"}


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nawait asyncio.start_server(handle, port=80)",
        "from asyncio import start_server",
        "await loop.create_server(Protocol, port=80)",
        "await anyio.create_tcp_listener(local_port=80)",
        "import socket\nsocket.create_server(('', 80))",
        "import socket\nsock.bind(address)",
        "sock.bind(('', 80))",
        "import socket\nsocket.socket().listen()",
    ],
)
def test_listener_is_found(source, tmp_path):
    """Any of the standard library or of anyio that other hosts could reach."""
    assert found_in(tmp_path, source) == {"listener"}


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py", "ours.pth"])
def test_module_that_python_starts_is_found(name, tmp_path):
    """Python runs these in every program of the environment; a folder has the name, too."""
    assert found_in(tmp_path, "", name) == {"start"}
    (tmp_path / name).unlink()
    (tmp_path / "deeper" / name).mkdir(parents=True)
    assert {one.kind for one in findings(tmp_path)} == {"start"}


@pytest.mark.parametrize(
    "source",
    [
        '"""It replaces an http.server: HTTP/1.1, PROTOCOL_TLS_SERVER."""',
        "import ssl\nssl.create_default_context()",
        "context.wrap_socket(sock, server_side=False)",
        "await asyncio.open_connection('example.com', 443, ssl=True)",
        "import http.client",
        "import aiohttp",
        "import os, socket\nsock.bind(os.fspath(path))\nsock.listen(8)",
        "await asyncio.start_unix_server(handle, path)",
        "self.loop.bind(loop)",
        "dispatcher.bind()",
    ],
)
def test_clients_and_local_sockets_are_left_alone(source, tmp_path):
    """A client of HTTPS, and a socket with a path: other hosts cannot reach it."""
    assert found_in(tmp_path, source) == set()
