"""The transport within, of httpx and httpx2: made as a client would make its own."""

import asyncio
import socket
import ssl
from importlib import import_module

import pytest
import trustme

from aioapiqueue import ApiQueue

pytestmark = pytest.mark.real


@pytest.fixture(params=["httpx", "httpx2"])
def library(request):
    """Give the library whose turn it is."""
    # What it reads as it makes its first transport would block the loop of a test.
    import_module(request.param).AsyncHTTPTransport()
    return import_module(request.param)


@pytest.fixture
def transport_class(library):
    """Give the library's `RateLimitedTransport`."""
    return import_module(f"aioapiqueue.integrations.{library.__name__}").RateLimitedTransport


@pytest.fixture
def client(library, transport_class, blockbuster):
    """Give `client(**options)`, a client whose transport is made with these options."""
    blockbuster.deactivate()  # certificates are read as a transport is made

    def make(queue=None, **options):
        transport = transport_class(queue or ApiQueue(), **options)
        return library.AsyncClient(transport=transport, timeout=60)

    return make


@pytest.fixture
def environment(monkeypatch):
    """Give `environment(NAME=value)`, in which nothing else says anything of proxies."""

    def put(**variables):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
async def proxy(server_class):
    """Serve as a proxy would."""
    serving = server_class()
    await serving.listen("127.0.0.1")
    yield serving
    await serving.aclose()


@pytest.mark.parametrize("size", [1, 3, None])
async def test_the_pool_is_as_large_as_asked(library, client, server, reply, size):
    """So many connections and no more; without `limits`, the library's own 100."""
    server.answer = lambda _: None
    options = {} if size is None else {"limits": library.Limits(max_connections=size)}
    count, most = (105, 100) if size is None else (6, size)
    async with client(**options) as paced:
        calls = [asyncio.ensure_future(paced.get(server.url())) for _ in range(count)]
        await server.arrived(most)
        await asyncio.sleep(0.05)
        assert server.opened == len(server.arrivals) == most
        server.answer = lambda _: reply.of()
        for connection in list(server.connections):
            connection.write(reply.of())
        assert {response.status_code for response in await asyncio.gather(*calls)} == {200}
    while server.connections:  # noqa: ASYNC110 - they are closed with the client
        await asyncio.sleep(0.005)


async def test_certificates_are_verified(library, client, server_class):
    """By the authority that `verify` names; without it, a strange one is refused."""
    authority = trustme.CA()
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(here)
    there = ssl.create_default_context()
    authority.configure_trust(there)
    serving = server_class(ssl=here)
    await serving.listen("127.0.0.1")
    url = serving.url().replace("http:", "https:")
    async with client(verify=there) as trusting, client(verify=False) as careless:
        assert (await trusting.get(url)).status_code == 200
        assert (await careless.get(url)).status_code == 200
    async with client() as strict:
        with pytest.raises(library.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await strict.get(url)
    assert len(serving.arrivals) == 2
    await serving.aclose()


async def test_socket_options_are_set(client, server):
    """Such as TCP's keep-alive, which SDKs set on the transport that they make themselves."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for given, expected in (({}, 0), ({"socket_options": options}, 1)):
        async with client(**given) as paced, paced.stream("GET", server.url()) as response:
            found = response.extensions["network_stream"].get_extra_info("socket")
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == expected


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_environments_proxy_is_used(client, server, proxy, environment, name, scheme):
    """As a client without a transport of its own would; the hosts of NO_PROXY are left out."""
    environment(**{name: f"{scheme}127.0.0.1:{proxy.port}", "NO_PROXY": "localhost, 127.0.0.1"})
    queue = ApiQueue(lanes={"*": ()})
    async with client(queue) as paced:
        environment()  # it is read once
        assert (await paced.get("http://far.example/things")).status_code == 200
        assert (await paced.get(server.url("/near"))).status_code == 200
    assert [arrival.path for arrival in proxy.arrivals] == ["http://far.example/things"]
    assert [arrival.path for arrival in server.arrivals] == ["/near"]
    assert queue.stats.released == 2
    async with asyncio.timeout(60):
        while proxy.connections or server.connections:  # noqa: ASYNC110 - closed with the client
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "no", ["*", "example", ".far.example", "far.example", "far.example:8080", "FAR.example"]
)
async def test_no_proxy_is_obeyed(transport_class, library, blockbuster, environment, no):
    """In every form that such a list has."""
    blockbuster.deactivate()
    environment(HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=f"other.example,{no}")
    transport = transport_class(ApiQueue())
    request = library.Request("GET", "http://far.example:8080/")
    assert transport.transport_for(request) is transport.inner
    request = library.Request("GET", "http://example.com/")
    assert (transport.transport_for(request) is transport.inner) == (no == "*")
    assert transport.transport_for(library.Request("GET", "https://far.com/")) is transport.inner


@pytest.mark.parametrize("how", ["trust_env", "proxy", "a transport of its own"])
async def test_the_environment_is_left_alone(
    library, transport_class, server, proxy, blockbuster, environment, how
):
    """With `trust_env=False`, a proxy that is given, or a transport that is."""
    blockbuster.deactivate()
    environment(HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9")
    if how == "trust_env":
        transport = transport_class(ApiQueue(), trust_env=False)
    elif how == "proxy":
        transport = transport_class(ApiQueue(), proxy=proxy.url())
    else:
        transport = transport_class(ApiQueue(), library.AsyncHTTPTransport())
    async with library.AsyncClient(transport=transport) as paced:
        assert (await paced.get(server.url("/near"))).status_code == 200
    assert len(proxy.arrivals) == (how == "proxy")
    assert len(server.arrivals) == (how != "proxy")


async def test_all_transports_are_closed(transport_class, library, environment, blockbuster):
    """Those of proxies too, and even if one of them cannot be closed."""
    blockbuster.deactivate()
    environment(HTTP_PROXY="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9")
    heard = []

    class Inner(library.AsyncHTTPTransport):
        async def aclose(self):
            heard.append("closed")
            await super().aclose()
            raise OSError("cannot be closed")

    class Transport(transport_class):
        transport_types = (library.AsyncBaseTransport, Inner)

    with pytest.raises(OSError, match="cannot be closed"):
        await Transport(ApiQueue()).aclose()
    assert heard == ["closed"] * 3


def test_an_invalid_proxy_is_refused(transport_class, environment):
    """As it is made, and not at the first request."""
    environment(HTTP_PROXY="gopher://127.0.0.1:9")
    with pytest.raises(ValueError, match="gopher"):
        transport_class(ApiQueue())


def test_options_beside_a_transport(library, transport_class):
    """They would be ignored."""
    inner = library.MockTransport(lambda _: None)
    with pytest.raises(TypeError) as caught:
        transport_class(ApiQueue(), inner, key="route", verify=False, http2=True)
    assert str(caught.value) == (
        "verify=, http2= would be ignored together with transport=: "
        f"set them on your {library.__name__}.MockTransport instead"
    )


@pytest.mark.parametrize("given", [True, False])
def test_an_unknown_option_is_named(library, transport_class, given):
    """With the one that was meant, or with those that there are."""
    inner = library.MockTransport(lambda _: None) if given else None
    with pytest.raises(TypeError, match=r"Transport has no option limts=: did you mean limits=\?"):
        transport_class(ApiQueue(), inner, limts=3)
    with pytest.raises(TypeError, match=r"has no option wait_timeout=: did you mean timeout=\?"):
        transport_class(ApiQueue(), inner, wait_timeout=3)
    said = "RateLimitedTransport has no option bananas=: its options are key=, cost="
    with pytest.raises(TypeError, match=said):
        transport_class(ApiQueue(), inner, bananas=3)
