"""Import hooks of the program's own, and botocores that were loaded past ours."""

import pytest

from aioapiqueue_run.hub import protocol as _protocol

pytestmark = pytest.mark.real

# Ten calls at once, of the botocore that the lines before it import.
CALLS = """
import concurrent.futures, {name}.session
sts = {name}.session.get_session().create_client("sts")
def call_all():
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: sts.get_caller_identity(), range(10)))
call_all()
"""

# Finds all that lies in files, and loads it with a loader of its own.
FINDER = """
import sys
from importlib.machinery import PathFinder, SourceFileLoader
class Loader(SourceFileLoader):
    pass
class Finder:
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(name, spec.loader.path)
        return spec
"""

# As in a Python whose imports go other ways than we know.
UNSEEN = """
import sys
machinery = sys.modules["_frozen_importlib"]
seen = machinery._find_spec
[machinery._find_spec] = [one.cell_contents for one in seen.__closure__]
"""
SEEN = """
machinery._find_spec = seen
import colorsys
"""

# What somebody else has done before the import.
HOOKS = {
    "in front, and reloaded": FINDER
    + """
sys.meta_path.insert(0, Finder())
import importlib, botocore.client
importlib.reload(botocore.client)
""",
    "in place of all": FINDER + "sys.meta_path = [*sys.meta_path[-3:-1], Finder()]",
    "typeguard": "import typeguard; typeguard.install_import_hook(['botocore'])",
    "with a loader that takes nothing": FINDER
    + """
class Fixed:
    __slots__ = ("create_module", "exec_module", "is_package")
    def __init__(self, loader):
        self.create_module, self.is_package = loader.create_module, loader.is_package
        object.__setattr__(self, "exec_module", loader.exec_module)
    def __setattr__(self, name, value):
        if hasattr(self, "exec_module"):
            raise AttributeError(name)
        object.__setattr__(self, name, value)
class Taking(Finder):
    def find_spec(self, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if name == "botocore.client":
            spec.loader = Fixed(spec.loader)
        return spec
sys.meta_path.insert(0, Taking())
""",
    "with our folder and our module taken away": """
import sys
folder = sys.modules.pop("_aioapiqueue").__path__[0].rpartition("/")[0]
sys.path.remove(folder)
""",
}


@pytest.mark.parametrize("hook", HOOKS)
async def test_other_import_hooks_change_nothing(bench, hook):
    """Whichever finder and loader brought botocore, calls are paced from the first one on."""
    async with bench.hub({"sts": "100/s"}) as hub:
        code, out, err = await bench.run(HOOKS[hook] + CALLS.format(name="botocore"), hub)
        assert (code, out, err) == (0, "", "")
        assert hub.figures[0].calls == len(bench.loopback.arrivals) == 10
        [process] = hub.processes.values()
        assert (bool(process.botocore), process.late, process.unhooked) == (True, False, None)
    bench.assert_paced(100)


THREADS = UNSEEN + CALLS.format(name="botocore").replace("\ncall_all()\n", SEEN + "call_all()")
TASKS = (
    UNSEEN
    + """
import asyncio
from aiobotocore.session import get_session
async def main():
    async with get_session().create_client("sts") as sts:
        exec(seen_again)
        await asyncio.gather(*(sts.get_caller_identity() for _ in range(10)))
"""
    + f"seen_again = {SEEN!r}\nasyncio.run(main())"
)


@pytest.mark.parametrize("source", [THREADS, TASKS], ids=["threads", "tasks"])
async def test_clients_are_paced_though_older(bench, source):
    """A client that is there when botocore is found is paced, and the hub knows that it is late."""
    async with bench.hub({"sts": "100/s"}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        assert hub.figures[0].calls == len(bench.loopback.arrivals) == 10
        [process] = hub.processes.values()
        assert (bool(process.botocore), process.late, process.unhooked) == (True, True, None)
    bench.assert_paced(100)


async def test_stand_in_for_botocore_is_ignored(bench):
    """A stand-in for botocore, as in a test, is neither hooked nor a fault."""
    source = """
        import sys, unittest.mock
        sys.modules["botocore"] = sys.modules["botocore.client"] = unittest.mock.MagicMock()
        sys.modules["awscli.botocore.client"] = None
        import colorsys, botocore.client
        botocore.client.BaseClient()
    """
    async with bench.hub({}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        [process] = hub.processes.values()
        assert (process.botocore, process.late, process.unhooked) == (None, False, None)


async def test_late_botocore_may_be_unhookable(bench, tools, monkeypatch):
    """If a client class cannot be hooked, imports go on, and the hub learns the reason once."""
    told = []
    parse = _protocol.parse
    monkeypatch.setattr(_protocol, "parse", lambda line: told.append(line) or parse(line))
    source = """
        import sys, types
        botocore = sys.modules["botocore"] = types.ModuleType("botocore")
        client = botocore.client = sys.modules["botocore.client"] = types.ModuleType("client")
        client.BaseClient = int
        import colorsys, botocore.client, fractions
    """
    async with bench.hub({}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        await tools.until(lambda: any(one.ended for one in hub.processes.values()))
        [process] = hub.processes.values()
        assert process.unhooked.startswith("botocore.client: TypeError(")
        assert sum(b'"unhooked"' in line for line in told) == 1
