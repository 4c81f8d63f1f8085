"""The servers that the other tests rely on do what these expect of them."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis
import redis.asyncio
from blockbuster import BlockingError
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, OutOfMemoryError

from aioapiqueue import ApiQueue, rate_limited
from tests.helpers.groups import Cluster, Sentinels
from tests.helpers.servers import Server, fresh_name, keys_of, until
from tests.helpers.virtual_client import EPOCH, VirtualClient

# What redis-py does by itself depends on its version, and on how the client was made.
AGAIN = {"retry": Retry(ConstantBackoff(0.01), 3), "retry_on_error": [redis.ConnectionError]}
PASSWORD = "sesame/:@"  # noqa: S105 - of servers that live for a second

# What the real script does with its `now`: keeps it, in a key with a TTL.
SCRIPT = "redis.call('SET', KEYS[1], ARGV[2], 'EX', 60) return {ARGV[1], ARGV[2], ARGV[3]}"


def key(name):
    """Return a key of the quota."""
    return f"{{aioapiqueue:{name}}}:state"


@pytest.mark.real
async def test_server_answers_every_way(each_server, name):
    """A server answers by every way to it.

    TCP, its URL and its Unix socket lead to the same keys.
    """
    async with each_server.client(decode_responses=True) as client:
        assert await client.set(key(name), "here", ex=60)
    for url in (each_server.url, each_server.socket_url):
        async with redis.asyncio.from_url(url, decode_responses=True) as client:
            assert await client.get(key(name)) == "here"
    ((found, left),) = keys_of(each_server, name).items()
    assert found == key(name)
    assert 0 < left <= 60


def test_keys_of_finds_lasting_keys(valkey, name):
    """Keys of tells what never expires and takes names as they are.

    Characters that mean something in a pattern match themselves only.
    """
    special = f"{name}[a]*?\\ \u00e9"
    valkey.sync().set(key(special), "forever")
    valkey.sync().set(key(f"{name}a-other"), "forever")
    try:
        assert keys_of(valkey, special) == {key(special): None}
    finally:
        valkey.sync().delete(key(special), key(f"{name}a-other"))


@pytest.mark.real
async def test_restarted_server_is_empty(server, name):
    """A restarted server is empty and on its old port.

    After a stop as after a crash, and a client goes on as if nothing had been.
    """
    async with server.client(**AGAIN) as client:
        for end in (server.restart, server.kill):
            await client.set(key(name), "here")
            end()
            if not server.running:
                with pytest.raises(redis.ConnectionError):
                    await client.get(key(name))
                server.start()
            assert await client.get(key(name)) is None


@pytest.mark.real
async def test_frozen_server_answers_when_thawed(server):
    """A frozen server answers once it is thawed.

    It still takes the request meanwhile.
    """
    async with server.client() as client:
        await client.ping()
        server.freeze()
        asked = asyncio.create_task(client.ping())
        await asyncio.wait([asked], timeout=0.05)
        assert not asked.done()
        server.thaw()
        assert await asked


@pytest.mark.real
async def test_a_server_may_speak_tls_only():
    """Its certificate is checked; after a restart it is still the same."""
    with Server(tls=True, password=PASSWORD) as server:
        for client in (server.client(**AGAIN), redis.asyncio.from_url(server.url, **AGAIN)):
            async with client:
                assert await client.ping()
                server.restart()
                assert await client.ping()
        async with redis.asyncio.from_url(server.url.split("?")[0]) as stranger:
            with pytest.raises(redis.ConnectionError, match="certificate"):
                await stranger.ping()


@pytest.mark.real
async def test_server_has_users_and_rules():
    """A server has users with passwords and rules.

    Each is let in by its own, and only to what it may do.
    """
    users = {"app": ("secret", "~{aioapiqueue:*}* +set +get")}
    with Server(password=PASSWORD, users=users) as server:
        assert server.sync().ping()
        async with server.client(username="app", password=users["app"][0]) as client:
            assert await client.set(key("x"), "1")
            with pytest.raises(NoPermissionError):
                await client.set("other", "1")
        async with server.client(password=PASSWORD[::-1], **AGAIN) as client:
            with pytest.raises(AuthenticationError):
                await client.ping()


def test_server_may_be_short_of_memory():
    """A server may be short of memory.

    Writes are refused then.
    """
    with Server(maxmemory=1) as server, pytest.raises(OutOfMemoryError):
        server.sync().set("key", "value")


def test_failed_start_shows_the_reason():
    """A server that does not start says why.

    And leaves nothing behind.
    """
    with (
        pytest.raises(RuntimeError, match="no-such-option"),
        Server(options={"no-such-option": ""}),
    ):
        pass


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv, which util-linux has")
def test_server_does_not_outlive_tests(tmp_path):
    """A server does not outlive the tests.

    Not even if these are killed.
    """
    program = textwrap.dedent("""
        import time
        from tests.helpers.servers import Server
        server = Server()
        server.start()
        print(server.sync().info()["process_id"], flush=True)
        time.sleep(60)
    """)
    paths = {"PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | paths, stdout=subprocess.PIPE
    ) as tests:
        served_by = Path(f"/proc/{int(tests.stdout.readline())}")
        assert served_by.exists()
        tests.send_signal(signal.SIGKILL)
    until(lambda: not served_by.exists() or "Z" in (served_by / "stat").read_text(), "it lives on")


def test_a_stopped_server_leaves_no_files():
    """Nor does one that was killed before."""
    server = Server(tls=True)
    server.start()
    folder = server.folder
    assert server.url
    assert list(folder.iterdir())
    server.kill()
    server.stop()
    assert not folder.exists()


@pytest.mark.real
async def test_cluster_spreads_quotas_over_nodes(cluster, name):
    """The cluster sends each quota to its node.

    The nodes hold a third each, and `keys_of` looks at all of them.
    """
    async with cluster.client(decode_responses=True) as client:
        for number in range(10):
            quota = f"{name}-{number}"
            assert await client.eval(SCRIPT, 1, key(quota), "op", "now", "x") == ["op", "now", "x"]
            assert list(keys_of(cluster, quota)) == [key(quota)]
            assert list(keys_of(cluster.node_of(quota), quota)) == [key(quota)]


@pytest.mark.slow
@pytest.mark.real
async def test_cluster_node_returns_to_its_address(name):
    """A node of a cluster comes back where it was.

    Its slots are down meanwhile, the others' are not; then it is empty.
    """
    with Cluster() as cluster:
        node = cluster.node_of(name)
        names = (fresh_name() for _ in range(1000))
        other = next(each for each in names if cluster.node_of(each) is not node)
        async with cluster.client(decode_responses=True) as client:
            for quota in (name, other):
                await client.set(key(quota), "here", ex=60)
            node.kill()
            assert await client.get(key(other)) == "here"
            with pytest.raises(redis.RedisError):
                await client.get(key(name))
            node.start()
            cluster.settle()
            assert await client.get(key(name)) is None
            assert await client.get(key(other)) == "here"


@pytest.mark.slow  # as all tests that need them are
@pytest.mark.real
@pytest.mark.parametrize("count", [1, 3])
async def test_sentinels_lead_to_the_replica(count):
    """Sentinels lead to the replica when the master dies.

    Which has what the master had.
    """
    with Sentinels(count) as sentinels:
        async with sentinels.client() as client:
            await client.set(key("x"), "1", ex=60)
            assert await client.wait(1, 10_000) == 1
            sentinels.failover()
            with contextlib.suppress(redis.ConnectionError):
                await client.ping()  # a connection to the old master is noticed by its failure
            assert await client.get(key("x")) == b"1"
            assert list(keys_of(sentinels, "x")) == [key("x")]


async def test_virtual_client_sends_virtual_time(each_server, name):
    """A virtual client gives the server the virtual time.

    To the microsecond, without a turn of the loop.
    """
    client = VirtualClient(each_server)
    for seconds, microseconds in [(0.0, 0), (0.1, 100_000), (0.3, 300_000), (1e6 + 0.7, 700_000)]:
        await asyncio.sleep(seconds - asyncio.get_running_loop().time())
        others = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(others.set_result, None)
        reply = await client.eval(SCRIPT, 1, key(name), "ask", "", "payload")
        assert not others.done(), "it has suspended"
        whole = EPOCH + int(seconds)
        assert reply == [b"ask", f"{whole}{microseconds:06}".encode(), b"payload"]
        await others
    assert client.calls == 4
    assert client.log == [(0.0, "ask"), (0.1, "ask"), (0.3, "ask"), (1e6 + 0.7, "ask")]


async def test_virtual_client_may_block_the_loop(valkey, name):
    """A virtual client may block the loop under our code.

    Elsewhere, blocking is an error there.
    """
    client = VirtualClient(valkey)

    @rate_limited(ApiQueue("10/s"))
    async def ours(call, *arguments):
        return await call(*arguments)

    async def blocks():
        valkey.sync().ping()

    assert await ours(client.eval, SCRIPT, 1, key(name), "ask", "", "payload")
    with pytest.raises(BlockingError):
        await ours(blocks)


async def test_virtual_client_has_latency_and_skew(valkey, name):
    """A virtual client may be slow and its server have another clock.

    The server's instant is that between the two ways.
    """
    client = VirtualClient(valkey, latency=(0.25, 0.25), skew=-5)
    (_, now, _) = await client.eval(SCRIPT, 1, key(name), "ask", "", "payload")
    assert now == str((EPOCH - 5) * 1_000_000 + 250_000).encode()
    assert asyncio.get_running_loop().time() == 0.5


async def test_virtual_client_loses_messages(valkey, name):
    """A virtual client loses requests and replies.

    About as many of each as it should, and the same ones each time.
    """

    async def outcomes():
        client = VirtualClient(valkey, loss=0.1, seed=7)
        kinds = []
        for _ in range(400):
            before = len(client.log)
            try:
                await client.eval(SCRIPT, 1, key(name), "ask", "", "")
            except (redis.ConnectionError, redis.TimeoutError) as error:
                kinds.append((type(error), "reply" if len(client.log) > before else "request"))
        return kinds

    kinds = await outcomes()
    assert kinds == await outcomes()
    assert len(set(kinds)) == 4
    for which in ("request", "reply"):
        assert 20 <= sum(kind[1] == which for kind in kinds) <= 60


async def test_virtual_client_is_down_or_silent(valkey, name):
    """A virtual client is down or silent while it should be.

    Down fails at once, or takes the reply that is on its way; silence lasts.
    """
    client = VirtualClient(valkey, latency=(1, 1))
    loop = asyncio.get_running_loop()
    loop.call_later(1.5, vars(client).update, {"down": True})
    with pytest.raises(redis.ConnectionError):
        await client.eval(SCRIPT, 1, key(name), "ask", "", "")
    assert client.log == [(1.0, "ask")]
    assert loop.time() == 2.0
    with pytest.raises(redis.ConnectionError):
        await client.eval(SCRIPT, 1, key(name), "ask", "", "")
    assert loop.time() == 2.0
    client.down, client.silent = False, True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.eval(SCRIPT, 1, key(name), "ask", "", ""), 3)
    assert client.log == [(1.0, "ask")]


async def test_virtual_client_raises_server_errors(valkey, name):
    """A virtual client raises what the server says.

    As a real one does, and that of a blocking client that it is given.
    """
    for target in (valkey, valkey.sync()):
        with pytest.raises(NoScriptError):
            await VirtualClient(target).evalsha("0" * 40, 1, key(name), "ask", "", "")


async def test_virtual_client_works_on_clusters(cluster, name):
    """A virtual client works on a cluster.

    There is a blocking client for that, too.
    """
    reply = await VirtualClient(cluster).eval(SCRIPT, 1, key(name), "ask", "", "payload")
    assert reply == [b"ask", f"{EPOCH}000000".encode(), b"payload"]
