"""Several servers as one: a cluster, and a master with its replica under sentinels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
from redis.crc import key_slot

from tests.helpers.servers import HOST, Server, Servers, free_port, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SLOTS = 16384
SHARES = [range(5461), range(5461, 10922), range(10922, SLOTS)]


class Cluster(Servers):
    """Three masters that share the slots; without replicas, so a slot goes down with its master.

    It takes 2 s to start: so long do masters wait before they call the cluster writable.

    Args:
        options: of each `Server`.
    """

    def __init__(self, **options: Any) -> None:
        self.nodes: list[Server] = []
        self._sync: redis.RedisCluster | None = None
        for _ in SHARES:
            cluster = {
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": "2000",
                "cluster-require-full-coverage": "no",
            }
            self.nodes.append(Server(options=cluster, **options))

    def start(self) -> None:
        """Start all, let them meet, and wait until each takes commands and knows the others."""
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        for number, (node, slots) in enumerate(zip(self.nodes, SHARES, strict=True), start=1):
            node.sync().execute_command("CLUSTER ADDSLOTSRANGE", slots.start, slots.stop - 1)
            node.sync().execute_command("CLUSTER SET-CONFIG-EPOCH", number)
            if node is not first:
                bus = node.options["cluster-port"]
                first.sync().execute_command("CLUSTER MEET", HOST, node.port, bus)
        self.settle()

    def settle(self) -> None:
        """Wait until all nodes agree that all slots are served; after a node's restart, say."""
        until(lambda: all(map(self._settled, self.nodes)), "the cluster does not settle")

    def stop(self) -> None:
        """End all."""
        if self._sync is not None:
            self._sync.close()
            self._sync = None
        for node in self.nodes:
            node.kill()
            node.stop()

    def client(self, **options: Any) -> redis.asyncio.RedisCluster:
        """Return an async client, not connected yet, for the caller to close."""
        nodes = [redis.asyncio.cluster.ClusterNode(HOST, node.port) for node in self.nodes]
        return redis.asyncio.RedisCluster(startup_nodes=nodes, **options)

    def sync(self) -> redis.RedisCluster:
        """Return the cluster's own blocking client, closed when it ends."""
        if self._sync is None:
            nodes = [redis.cluster.ClusterNode(HOST, node.port) for node in self.nodes]
            self._sync = redis.RedisCluster(startup_nodes=nodes)
        return self._sync

    def node_of(self, name: str) -> Server:
        """Return the server that holds quota `name`, as the slots were given out at the start."""
        slot = key_slot(f"{{aioapiqueue:{name}}}".encode())
        return next(node for node, slots in zip(self.nodes, SHARES, strict=True) if slot in slots)

    def _settled(self, node: Server) -> bool:
        figures = node.sync().execute_command("CLUSTER INFO")
        return (
            figures["cluster_state"] == "ok"
            and figures["cluster_slots_ok"] == str(SLOTS)
            and figures["cluster_size"] == figures["cluster_known_nodes"] == str(len(self.nodes))
        )


class Sentinels(Servers):
    """A master, its replica, and sentinels that watch them: quicker than in production.

    `master` and `replica` change places in `failover()`.

    Args:
        count: of sentinels; more than half of them must live to agree on a failover.
        options: of the master and the replica, as `Server` takes them; without password.
    """

    NAME = "fleet"  # what the sentinels call the master

    def __init__(self, count: int = 1, **options: Any) -> None:
        self.master = Server(**options)
        self.replica = Server(replica_of=self.master, **options)
        self.sentinels = [_Sentinel(self.master, count // 2 + 1) for _ in range(count)]

    @property
    def nodes(self) -> list[Server]:
        """The servers that hold keys: the present master."""
        return [self.master]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The sentinels' hosts and ports, as redis-py's `Sentinel` takes them."""
        return [(HOST, sentinel.port) for sentinel in self.sentinels]

    def start(self) -> None:
        """Start all, and wait until the sentinels know the replica and each other."""
        for server in (self.master, self.replica, *self.sentinels):
            server.start()
        others = len(self.sentinels) - 1
        until(
            lambda: all(sentinel.sees(replicas=1, others=others) for sentinel in self.sentinels),
            "the sentinels do not see the others",
        )

    def stop(self) -> None:
        """End all."""
        for server in (*self.sentinels, self.replica, self.master):
            server.kill()
            server.stop()

    def failover(self) -> None:
        """Kill the master, and wait until its replica is master and every sentinel says so."""
        self.master.kill()
        self.master, self.replica = self.replica, self.master
        until(self._agreed, "the sentinels do not fail over")

    def sync(self) -> redis.Redis:
        """Return the present master's own blocking client."""
        return self.master.sync()

    @contextlib.asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[redis.asyncio.Redis]:
        """Give a client of the present master, as a user gets it; all is closed at the end.

        Do not give it a `retry`: redis-py's retries ask the dead master again (its issue 3874).
        """
        sentinel = redis.asyncio.sentinel.Sentinel(self.addresses, **options)
        try:
            async with sentinel.master_for(self.NAME) as client:
                yield client
        finally:
            for each in sentinel.sentinels:
                await each.aclose()

    def _agreed(self) -> bool:
        return self.master.sync().role()[0] == b"master" and all(
            sentinel.leads_to(self.master) for sentinel in self.sentinels
        )


class _Sentinel(Server):
    """One sentinel of `master`, which needs `quorum` of them to call it down."""

    # Milliseconds. A sentinel that was held up for `tilt-trigger` does nothing for a while.
    HASTE: ClassVar = {"info-period": 200, "publish-period": 100, "tilt-trigger": 60_000}

    def __init__(self, master: Server, quorum: int) -> None:
        super().__init__(program=master.program)
        self._master, self._quorum = master, quorum

    def ask(self, command: str, *arguments: object) -> Any:
        """Return the answer about the master, as it came."""
        words = ("SENTINEL", command, Sentinels.NAME, *arguments)
        return self.sync().execute_command(*words)

    def sees(self, *, replicas: int, others: int) -> bool:
        """Tell whether it has found so many others."""
        seen = [self.ask("REPLICAS"), self.ask("SENTINELS")]
        return list(map(len, seen)) == [replicas, others]

    def leads_to(self, master: Server) -> bool:
        """Tell whether clients get `master` from it, and take it for healthy."""
        # redis-py reads this, not GET-MASTER-ADDR-BY-NAME, which names the new one earlier
        state = self.sync().sentinel_master(Sentinels.NAME)
        return state["port"] == master.port and not (state["is_sdown"] or state["is_odown"])

    def start(self) -> None:
        super().start()
        for key, value in self.HASTE.items():
            self.sync().execute_command("SENTINEL", "DEBUG", key, value)

    def _configuration(self) -> list[str]:
        path = self.folder / "sentinel.conf"
        path.write_text(
            f"sentinel monitor {Sentinels.NAME} {HOST} {self._master.port} {self._quorum}\n"
            f"sentinel down-after-milliseconds {Sentinels.NAME} 500\n"
            f"sentinel failover-timeout {Sentinels.NAME} 3000\n"
        )
        return [str(path), "--sentinel"]
