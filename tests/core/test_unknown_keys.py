"""Keys that fit no lane: warned of, once, where nothing paces them; refused by `strict_lanes`."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from aioapiqueue import ApiQueue, UnknownKeyWarning, rate_limited
from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue.spi import Reporter
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.limiters import OnHost, Shared

LANES = {"search": "1000/s", "tenant:*": "1000/s"}


async def by_slot(queue, key):
    """Make a call as most do."""
    async with queue.slot(key=key):
        pass


async def by_keys(queue, key):
    """Make one that asks for more."""
    async with queue.slot(keys=(key,), cost=2, priority=1):
        pass


async def by_enqueue(queue, key):
    """Join, and wait."""
    (await queue.enqueue(key=key)).release()


async def by_try_slot(queue, key):
    """Make one that does not wait."""
    queue.try_slot(key=key).release()


async def by_estimate(queue, key):
    """Ask how long it would wait."""
    queue.estimate(key=key)


async def by_map(queue, key):
    """Make one for an item."""

    async def call(item):
        return item

    assert [one async for one in queue.map(call, [1], key=key)] == [1]


async def by_decorator(queue, key):
    """Make one by a decorated function."""

    @rate_limited(queue, key=key)
    async def call():
        pass

    await call()


async def by_limiter(queue, key):
    """Make one by a view of the queue."""
    await queue.limiter(key=key).acquire()


WAYS = (
    *(by_slot, by_keys, by_enqueue, by_try_slot, by_estimate),
    *(by_map, by_decorator, by_limiter),
)


# The warning


async def test_mistyped_key_warns_once(limiter):
    """Of fifty calls that start at one instant."""
    queue = limiter.queue(lanes=LANES)
    with limiter.warned_of_unpaced() as caught:
        slots = await asyncio.gather(*(queue.enqueue(key="serach") for _ in range(50)))
    assert [slot.waited for slot in slots] == limiter.exactly([0] * 50)
    if caught is None:
        return
    (warning,) = caught
    message = str(warning.message)
    assert "has no lane for the key 'serach', and no limits of its own" in message
    assert "did you mean 'search'?" in message


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_call_warns(way):
    """As of the line that made the call; `map` makes it in a task of its own."""
    with pytest.warns(UnknownKeyWarning) as caught:
        await way(ApiQueue(lanes=LANES), "tenat:acme")
    (warning,) = caught
    assert "did you mean 'tenant:*'?" in str(warning.message)
    assert warning.filename == __file__ or way is by_map


@pytest.mark.real
def test_blocking_slots_warn():
    """Whichever thread the queue is on."""
    with (
        pytest.warns(UnknownKeyWarning, match="'serach'"),
        blocking(ApiQueue(lanes=LANES)).slot(key="serach"),
    ):
        pass


async def test_warning_made_an_error():
    """The caller gets it, and nothing has started."""
    queue = ApiQueue(lanes=LANES)
    with pytest.raises(UnknownKeyWarning):
        await by_slot(queue, "serach")
    assert (queue.running, queue.waiting, queue.stats.released) == (0, 0, 0)


async def test_error_once_a_call_has_started():
    """Where it is known only then, as with shared limits, the loop's exception handler gets it."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    queue = ApiQueue(concurrency=1, lanes=LANES)
    with queue.try_slot(key="serach") as slot:
        for _ in range(2):
            introspect.start_unpaced(queue, slot)
    (context,) = reported
    assert isinstance(context["exception"], UnknownKeyWarning)
    assert "did you mean 'search'?" in str(context["exception"])


async def test_none_near_lists_the_lanes():
    """Some of them, of many."""
    queue = ApiQueue(lanes={f"lane{'abcdefgh'[n]}": "1/s" for n in range(8)})
    with pytest.warns(UnknownKeyWarning, match="its lanes are 'lanea', .* 'lanee' [.]{3} "):
        await by_slot(queue, 5)


@pytest.mark.parametrize(
    ("limits", "options", "call"),
    [
        ((), {"lanes": LANES}, {}),
        ((), {"lanes": LANES}, {"key": "search"}),
        ((), {"lanes": LANES}, {"key": "tenant:new"}),
        ((), {"lanes": LANES}, {"keys": ("unknown", "search")}),
        (("1000/s",), {"lanes": LANES}, {"key": "unknown"}),
        (("5 at once",), {"lanes": LANES}, {"key": "unknown"}),
        ((), {"lanes": LANES, "concurrency": 5}, {"key": "unknown"}),
        ((), {"lanes": {**LANES, "*": "unlimited"}}, {"key": "unknown"}),
        ((), {}, {"key": "unknown"}),
        (("unlimited",), {"lanes": LANES}, {"key": "unknown"}),
        ((), {"lanes": {"a": "unlimited", "b*": ()}}, {"key": "unknown"}),
        ((), {"lanes": LANES}, {"key": "unknown", "cost": 0}),
    ],
)
async def test_other_calls_warn_of_nothing(limiter, limits, options, call):
    """They have a lane, no key, a limit of the queue or no cost; or need none, as is said."""
    queue = limiter.queue(*limits, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (await queue.enqueue(**call)).release()
        queue.estimate(**call)
        await limiter.settled()
    assert caught == []


async def test_limits_set_warn_of_nothing(limiter):
    """A queue whose limits were lifted, and one whose lanes came one by one."""
    lifted, by_and_by = limiter.queue("100/s", lanes=LANES), limiter.queue()
    (await lifted.enqueue(key="search")).release()
    lifted.set_rate("unlimited")
    by_and_by.set_rate("100/s", key="big")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for queue in (lifted, by_and_by):
            await by_enqueue(queue, "unknown")
        await limiter.settled()
    assert caught == []


@pytest.mark.posix
async def test_limits_of_others_on_a_host():
    """They pace a call here that fits no lane of this queue, and only the hub knows them."""
    make = OnHost(examples=1).quota()
    other, queue = make("2/s"), make(lanes=LANES)
    await by_enqueue(other, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            await by_enqueue(queue, "unknown")
    assert (now(), caught) == (pytest.approx(1.5), [])


async def test_free_calls_hide_no_warning():
    """The first call that costs something has it."""
    queue = ApiQueue(lanes=LANES)
    (await queue.enqueue(key="serach", cost=0)).release()
    with pytest.warns(UnknownKeyWarning):
        await by_slot(queue, "serach")


async def test_learning_queues_warn_of_nothing(limiter):
    """A key's limits may come with its first answer."""
    queue = limiter.queue(lanes=LANES)
    Reporter(queue).learn(["tokens"])
    await by_enqueue(queue, "unknown")
    await limiter.settled()


async def test_synced_queues_warn(limiter):
    """A server's count is no limit that a mistyped key comes under."""
    queue = limiter.queue(lanes=LANES)
    slot = await queue.enqueue(key="search")
    slot.sync(100, reset=60)
    with limiter.warned_of_unpaced():
        await by_enqueue(queue, "serach")


async def test_calls_of_registries_warn_of_nothing():
    """An operation without a limit is checked, and meant."""
    registry = Registry({"ec2": ServiceLimits(lanes={"DescribeSnapshots": "1/s"})})
    call = registry.find_call("ec2", "DescribeVolumes", region="eu-west-1", account="1")
    (await call.queue.enqueue(keys=call.keys, cost=call.cost)).release()


# Lanes that `set_rate` makes


@pytest.mark.parametrize(
    ("lane", "key"),
    [
        ("search", "serach"),
        ("search", "serch"),
        ("search", "searrch"),
        ("search", "saerch"),
        ("search", "Search"),
        ("tenant:*", "tenat:*"),
        ("ListKeys", "list_keys"),
        ("GET /customers", "GET /cusotmers"),
    ],
)
async def test_set_rate_warns_of_typos(limiter, lane, key):
    """Once: the lane is made, and is no typo of itself."""
    queue = limiter.queue(lanes={lane: "10/s"})
    with pytest.warns(UnknownKeyWarning) as caught:
        queue.set_rate("5/s", key=key)
    queue.set_rate("6/s", key=key)
    (warning,) = caught
    assert f"the key {key!r}: did you mean {lane!r}?" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("lane", "key"),
    [
        ("search", "find"),
        ("tenant:a", "tenant:b"),
        ("host1", "host2"),
        ("host10", "host100"),
        ("host12", "host21"),
        ("10.1.11.1", "10.11.1.1"),
        ("search", "searches"),
        ("order", "orders"),
        ("orders", "order"),
        ("prod", "PROD"),
        ("product", "prod"),
        ("martinez", "martin"),
        ("customer-acme", "customer-acne"),
        ("tenant:acme", "tenant:acmee"),
        ("form", "from"),
        ("eu-west-1", "us-west-1"),
        ("DescribeInstances", "DescribeImages"),
        ("GET /a", "GET /a/b"),
        ("tenant:*", "tenant:acme"),
        ("search", "*"),
        ("*", "x"),
        (5, 6),
        ("search", None),
    ],
)
async def test_set_rate_knows_other_names(limiter, lane, key):
    """Names that differ on purpose, keys that have a lane already, and the queue itself."""
    queue = limiter.queue("100/s", lanes={lane: "10/s"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        queue.set_rate("5/s", key=key)
    assert caught == []


@pytest.mark.real
def test_set_rate_warns_in_its_thread():
    """The warning names the line of the thread that calls `set_rate`, not one of the loop's."""
    queue = ApiQueue("10/s", lanes={"search": "5/s"})
    with pytest.warns(UnknownKeyWarning, match="did you mean 'search'") as caught:
        blocking(queue).set_rate("5/s", key="serach")
    assert [one.filename for one in caught] == [__file__]


async def test_set_rate_compares_given_lanes():
    """A program that makes lanes by and by has not mistyped their names."""
    queue = ApiQueue("100/s", lanes={"unlike": "1/s"})
    queue.set_rate("5/s", key="search")
    queue.set_rate("5/s", key="serach")
    many = ApiQueue("100/s", lanes={f"search{number}": "1/s" for number in range(101)})
    many.set_rate("5/s", key="serach7")
    with pytest.warns(UnknownKeyWarning, match="'unlike'"):
        queue.set_rate("5/s", key="unilke")


# `strict_lanes`


async def test_names_that_are_no_text_are_never_meant():
    """What is suggested is the most similar name; a number or a tuple is similar to none."""
    queue = ApiQueue(lanes={("search", 1): "1/s", 7: "1/s", "search": "1/s"}, strict_lanes=True)
    with pytest.raises(ValueError, match="did you mean 'search'"):
        await queue.enqueue(key="serach")


@pytest.mark.parametrize("way", WAYS)
async def test_strict_lanes_refuse_every_call(limiter, way):
    """Before anything is counted; with a limit of the queue's own or without."""
    for limits in ((), ("10/s",)):
        queue = limiter.queue(*limits, lanes=LANES, strict_lanes=True)
        for key, meant in (("serach", "'search'"), ("tenat:acme", "'tenant:[*]'")):
            with pytest.raises(ValueError, match=f"no lane for the key .*did you mean {meant}"):
                await way(queue, key)
        assert (queue.running, queue.waiting, queue.stats.released) == (0, 0, 0)


@pytest.mark.parametrize("key", ["search", "tenant:acme", None])
@pytest.mark.parametrize("way", [by_slot, by_keys, by_enqueue, by_map, by_decorator, by_limiter])
async def test_strict_lanes_take_known_keys(limiter, way, key):
    """An exact name, what fits a pattern, and no key at all."""
    await way(limiter.queue("100/s burst 9", lanes=LANES, strict_lanes=True), key)


async def test_strict_lanes_look_at_each_key(limiter):
    """Any one that fits none is enough."""
    queue = limiter.queue("10/s", lanes=LANES, strict_lanes=True)
    with pytest.raises(ValueError, match="the key 'tenat:a'"):
        queue.slot(keys=("search", "tenat:a"))
    (await queue.enqueue(keys=("search", "tenant:a"))).release()


async def test_strict_lanes_with_a_star():
    """Which every key fits."""
    await by_slot(ApiQueue(lanes={"*": "10/s"}, strict_lanes=True), "anything")


async def test_strict_without_lanes():
    """No key fits, and the message does not pretend that some would."""
    queue = ApiQueue("10/s", strict_lanes=True)
    with pytest.raises(ValueError, match="for the key 'a': this queue has no lanes"):
        queue.slot(key="a")
    await by_slot(queue, None)


async def test_refused_keys_are_shown_in_part():
    """A long one, or names that are, would make a message of as many characters."""
    queue = ApiQueue(lanes={"x" * 1_000_000: "1/s"}, strict_lanes=True)
    with pytest.raises(ValueError, match=r"no lane for the key 'yyy.*[.]{3}: ") as caught:
        queue.slot(key="y" * 1_000_000)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("others", "said"), [(99, "mean 'search'"), (100, "its lanes are")])
async def test_few_names_are_compared(others, said):
    """Of thousands it would take so long that other calls are late."""
    lanes = {**{f"{number}-x": "1/s" for number in range(others)}, "search": "1/s"}
    with pytest.raises(ValueError, match=said):
        ApiQueue(lanes=lanes, strict_lanes=True).slot(key="serach")


@pytest.mark.parametrize(("unlike", "said"), [(23, "mean 'xxx"), (24, "its lanes are")])
async def test_beginnings_of_names_are_compared(unlike, said):
    """The first 60 characters decide: to compare long names would take too long."""
    queue = ApiQueue(lanes={"x" * unlike + "s" * 1000: "1/s"}, strict_lanes=True)
    with pytest.raises(ValueError, match=said):
        queue.slot(key="y" * unlike + "s" * 1000)


@pytest.mark.parametrize(("letters", "shown"), [(98, f"'{'k' * 98}':"), (99, f"'{'k' * 99}...:")])
async def test_long_keys_are_cut_short(letters, shown):
    """A refusal shows a hundred characters of a key, with its quotes, and no more."""
    queue = ApiQueue(lanes={"search": "1/s"}, strict_lanes=True)
    with pytest.raises(ValueError, match="has no lane for the key") as caught:
        queue.slot(key="k" * letters)
    assert f"the key {shown}" in str(caught.value)


async def test_strict_lanes_refuse_control(limiter):
    """What is said of a mistyped key would hold the whole queue, or make a lane."""
    queue = limiter.queue("10/s", lanes=LANES, strict_lanes=True)
    slot = await queue.enqueue(key="search")
    for change in (
        lambda: queue.set_rate("5/s", key="serach"),
        lambda: queue.set_rate("5/s", key="serach*"),
        lambda: queue.hold(5, key="serach"),
        lambda: queue.sync(5, key="serach"),
        lambda: queue.throttled(5, key="serach"),
        lambda: slot.throttled(5, key="serach"),
        lambda: queue.limiter(key="serach"),
    ):
        with pytest.raises(ValueError, match="did you mean 'search'"):
            change()
    assert set(queue.stats.lanes) == set(LANES)
    assert queue.stats.throttled == 0
    queue.set_rate("5/s", key="tenant:acme")
    queue.set_rate("5/s", key="tenant:*")
    queue.hold(0.001, key="search")
    queue.set_rate("5/s")


@pytest.mark.real
def test_strict_lanes_refuse_threads():
    """A thread gets the error where it waits."""
    gate = blocking(ApiQueue("100/s", lanes=LANES, strict_lanes=True))
    with pytest.raises(ValueError, match="did you mean 'search'"), gate.slot(key="serach"):
        pass
    for act in (gate.try_slot, gate.estimate):
        with pytest.raises(ValueError, match="did you mean 'search'"):
            act(key="serach")
    with pytest.raises(ValueError, match="did you mean 'search'"):
        gate.set_rate("1/s", key="serach")


@pytest.mark.parametrize("kind", ["host", "redis"])
async def test_lanes_of_others_are_known(kind, valkey):
    """Those that another process has made by `set_rate` count, from when they are known here."""
    kinds = {
        "host": lambda: OnHost(examples=1),
        "redis": lambda: Shared(valkey, ahead=0.2, examples=1),
    }
    limiter = kinds[kind]()
    make = limiter.quota()
    strict, lenient, other = make("9/s", strict_lanes=True), make(lanes=LANES), make("9/s")
    for queue in (strict, lenient, other):
        (await queue.enqueue()).release()
    with pytest.raises(ValueError, match="no lane for the key 'new'"):
        strict.slot(key="new")
    other.set_rate("5/s", key="new")
    await limiter.settled()
    for queue in (strict, lenient):
        (await queue.enqueue()).release()  # by which it hears of it
        (await queue.enqueue(key="new")).release()
    strict.set_rate("6/s", key="new")


@pytest.mark.posix
async def test_lanes_given_by_others_count():
    """A hub says which keys have limits of other processes."""
    make = OnHost(examples=1).quota()
    strict, other = make("9/s", strict_lanes=True), make("9/s", lanes={"theirs:*": "5/s"})
    for queue in (other, strict):
        (await queue.enqueue()).release()
    (await strict.enqueue(key="theirs:1")).release()
    with pytest.raises(ValueError, match="no lane for the key 'else'"):
        strict.slot(key="else")


async def test_set_rate_keeps_strictness():
    """It makes new kinds of calls, where limits of bodies come: those look at keys, too."""
    queue = ApiQueue("10/s", lanes=LANES, strict_lanes=True)
    queue.set_rate("5 at once")
    with pytest.raises(ValueError, match="did you mean 'search'"):
        queue.slot(key="serach")
    await by_slot(queue, "search")
