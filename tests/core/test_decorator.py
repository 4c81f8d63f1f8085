from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect

import pytest

from aioapiqueue import ApiQueue, Rate, SlotTimeout, rate_limited
from aioapiqueue.threads import blocking
from tests.helpers.instants import now

MADE_AT_IMPORT = ApiQueue("10/s")


@rate_limited(MADE_AT_IMPORT)
async def fetch(number, *, twice=False):
    """Say what was asked."""
    return number * (1 + twice), now()


async def test_every_call_waits_its_turn(limiter):
    """Every call of a function waits its turn.

    Arguments and results pass through; a module's decorated function has the pace.
    """
    results = await asyncio.gather(*(fetch(n, twice=True) for n in range(4)))
    assert [number for number, _ in results] == [0, 2, 4, 6]
    assert [start for _, start in results] == limiter.exactly([0, 0.1, 0.2, 0.3])


def test_decorated_function_stays_itself():
    """A decorated function is still what it was.

    Name, docstring, signature and being a coroutine function are kept.
    """
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Say what was asked.")
    assert list(inspect.signature(fetch).parameters) == ["number", "twice"]
    assert inspect.iscoroutinefunction(fetch)


async def test_methods_of_all_kinds(limiter):
    """Instance, class and static methods; `key` sees `self`."""
    queue, keys = limiter.queue("10/s"), []

    class Client:
        name = "client"

        @rate_limited(queue, key=lambda self, what: keys.append((self.name, what)))
        async def get(self, what):
            return self.name, what, now()

        @classmethod
        @rate_limited(queue)
        async def make(cls):
            return cls, now()

        @staticmethod
        @rate_limited(queue)
        async def version():
            return 1, now()

    client = Client()
    assert await client.get("x") == ("client", "x", 0.0)
    assert await Client.make() == (Client, limiter.exactly(0.1))
    assert await client.version() == (1, limiter.exactly(0.2))
    assert keys == [("client", "x")]


async def test_key_and_cost_from_arguments(limiter):
    """Key and cost are functions of the arguments or constants.

    A lane is chosen by the key, and the cost is charged.
    """
    queue = limiter.queue("100/s", lanes={"slow": "1/s"})

    @rate_limited(queue, key=lambda name, _: name, cost=lambda _, size: size)
    async def by_call(name, size):
        return now()

    @rate_limited(queue, key="slow", cost=2)
    async def by_constant():
        return now()

    assert await by_call("x", 5) == limiter.exactly(0.04)
    assert await by_call("y", 1) == limiter.exactly(0.05)
    assert await by_constant() == limiter.exactly(1.05)  # its lane waits for a second unit of cost
    assert await by_call("slow", 1) == limiter.exactly(2.05)


async def test_priority_and_timeout(limiter):
    """Urgent calls go first; one that gets no slot in time never runs."""
    queue, order = limiter.queue("10/s"), []

    @rate_limited(queue)
    async def plain(name):
        order.append(name)

    @rate_limited(queue, priority=-1)
    async def urgent(name):
        order.append(name)

    @rate_limited(queue, timeout=0.15)
    async def hasty(name):
        order.append(name)
        await asyncio.sleep(1)  # the timeout is for the slot, not for the call

    first = asyncio.ensure_future(hasty("a"))
    await limiter.settled()  # else all of them are sorted before it is answered
    results = await asyncio.gather(
        first, plain("b"), plain("c"), urgent("d"), hasty("e"), return_exceptions=True
    )
    assert order == ["a", "d", "b", "c"]
    assert isinstance(results[-1], SlotTimeout)


async def test_call_cancelled_while_waiting_never_runs(limiter):
    """A call cancelled while it waits never runs.

    And uses no slot.
    """
    queue, ran = limiter.queue("10/s"), []

    @rate_limited(queue)
    async def call(name):
        ran.append((name, now()))

    tasks = [asyncio.create_task(call(name)) for name in "abc"]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert ran == [("a", 0.0), ("c", limiter.exactly(0.1))]


async def test_exception_frees_the_place(limiter):
    """An exception passes and frees the place.

    What the body raises is the caller's.
    """
    queue = limiter.queue(concurrency=1)

    @rate_limited(queue)
    async def fail():
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await fail()
    assert queue.running == 0


async def test_exception_of_key_uses_no_slot(limiter):
    """An exception of key or cost uses no slot.

    It is raised to the caller before anything is charged.
    """
    queue = limiter.queue("10/s")

    @rate_limited(queue, key=lambda name: name["missing"])
    async def by_key(name):
        pytest.fail("ran")

    @rate_limited(queue, cost=lambda _: -1)
    async def by_cost(name):
        pytest.fail("ran")

    with pytest.raises(KeyError):
        await by_key({})
    with pytest.raises(ValueError, match="cost"):
        await by_cost({})
    assert (queue.stats.released, queue.waiting) == (0, 0)


async def test_the_body_sees_its_callers_context(limiter):
    """Context variables are those of the caller, not of the task that started the ticker."""
    variable = contextvars.ContextVar("variable", default="none")
    queue = limiter.queue("10/s")

    @rate_limited(queue)
    async def read():
        return variable.get(), asyncio.current_task().get_name()

    async def caller(name):
        variable.set(name)
        return await read()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caller(name), name=name) for name in "abc"]
    assert [task.result() for task in tasks] == [(name, name) for name in "abc"]


def sync():
    """Be no coroutine function."""


def sync_generator():
    """Be a generator function."""
    yield


async def async_generator():
    """Be an async generator function."""
    yield


class Callable:
    """Make objects that are called like a coroutine function."""

    async def __call__(self):
        """Be awaited."""
        return 1

    @staticmethod
    async def none():
        """Return nothing that can divide."""
        return 0


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        (sync, "in an async function with asyncio.to_thread"),
        (sync_generator, "in an async function with asyncio.to_thread"),
        (lambda: fetch(1), "in an async function with asyncio.to_thread"),
        (Callable, "in an async function with asyncio.to_thread"),
        (3, "needs an async function, but 3 is not a function"),
        (async_generator, 'put "async with queue.slot' + "():"),
    ],
)
def test_wrong_kinds_of_function_are_refused(what, remedy):
    """What is no coroutine function is refused with the remedy.

    At decoration, not at the first call.
    """
    with pytest.raises(TypeError) as caught:
        rate_limited(MADE_AT_IMPORT)(what)
    assert remedy in str(caught.value)
    assert getattr(what, "__name__", "3") in str(caught.value)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (fetch, r"leave out blocking\(...\)"),
        (sync_generator, 'put "with blocking'),
        (Callable, "decorates functions, but .* is not a function"),
        (3, "decorates functions, but .* is not a function"),
    ],
)
def test_what_threads_cannot_pace(what, words):
    """Functions whose calls go on after their slot are refused at decoration."""
    with pytest.raises(TypeError, match=words):
        rate_limited(blocking(ApiQueue()))(what)


async def test_other_callables_that_are_coroutine_functions(limiter):
    """Partials and objects with an async `__call__` are paced too."""
    queue = limiter.queue("10/s")
    paced = rate_limited(queue)

    async def add(one, other):
        return one + other

    assert await paced(functools.partial(add, 1))(2) == 3
    assert await paced(Callable())() == 1
    assert now() == limiter.exactly(0.1)


async def test_two_queues_both_pace(limiter):
    """Stacked, a call needs a slot of each."""
    outer, inner = limiter.queue("10/s"), limiter.queue("4/s")

    @rate_limited(outer)
    @rate_limited(inner)
    async def call():
        return now()

    assert [await call() for _ in range(3)] == limiter.exactly([0, 0.25, 0.5])
    assert outer.stats.released == inner.stats.released == 3


async def test_all_options_from_arguments():
    """Keys, priority, cost, time-out and the true cost, by functions of the arguments."""
    queue, order = ApiQueue("1/s", "100 tokens/s burst 100", lanes={"t:*": "1/s"}), []

    @rate_limited(
        queue,
        keys=lambda tenant, **_: (f"t:{tenant}", "all"),
        priority=lambda _, *, urgent=False: -urgent,
        cost=lambda tenant, **_: {"tokens": 10 * len(tenant)},
        timeout=lambda tenant, **_: 0.5 if tenant == "hasty" else None,
        settle=lambda answer: {"tokens": answer} if answer else None,
    )
    async def ask(tenant, *, urgent=False):
        order.append((tenant, now()))
        return 3 if urgent else 0

    calls = [ask("a"), ask("bb"), ask("hasty"), ask("c", urgent=True)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert order == [("a", 0), ("c", pytest.approx(1)), ("bb", pytest.approx(2))]
    assert isinstance(results[2], SlotTimeout)
    assert queue.stats.costs == {"calls": 3, "tokens": 10 + 3 + 20}
    assert queue.stats.lanes["t:*"].released == 3


async def test_settle_only_results(limiter):
    """A call that raises is not settled."""
    queue, settled = limiter.queue(concurrency=1), []

    @rate_limited(queue, settle=settled.append)
    async def half(number):
        return 1 / number

    assert await half(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        await half(0)
    assert settled == [0.5]


async def test_settle_that_fails_keeps_result():
    """Its error is reported to the loop, and the call keeps the cost that it was charged."""
    queue, errors = ApiQueue("9 tokens/s burst 9"), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    options = {"cost": {"tokens": 5}, "settle": lambda result: 1 / result}
    assert await rate_limited(queue, **options)(Callable.none)() == 0
    [context] = errors
    assert isinstance(context["exception"], ZeroDivisionError)
    assert "the call keeps its estimated cost" in context["message"]
    assert (queue.running, queue.stats.costs["tokens"]) == (0, 5)


def test_settle_that_fails_in_a_thread(caplog):
    """Where no loop runs, its error is logged."""
    paced = rate_limited(blocking(ApiQueue("9/s")), settle=lambda _: -1)(lambda: 7)
    assert paced() == 7
    [record] = caplog.records
    assert "@rate_limited: settle=<function" in record.message
    assert record.name == "asyncio"
    assert "at least 0" in str(record.exc_info[1])


async def test_interruption_in_settle_is_raised():
    """What is no error of the function's own ends the call as ever, its place freed."""
    queue = ApiQueue(concurrency=1)

    def cancel(_):
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await rate_limited(queue, settle=cancel)(Callable.none)()
    assert queue.running == 0


async def test_queue_found_by_arguments(limiter):
    """A function of the arguments finds the queue of each call."""
    queues = {name: limiter.queue("10/s") for name in "ab"}

    @rate_limited(lambda name, **_: queues[name], cost=lambda _, *, size: size)
    async def fetch(name, *, size):
        return now()

    starts = await asyncio.gather(*(fetch(name, size=1) for name in "aabb"))
    assert starts == limiter.exactly([0, 0.1, 0, 0.1])
    with pytest.raises(KeyError):
        await fetch("c", size=1)


async def test_wrong_queue_found_is_refused():
    """What a function finds is checked at each call."""

    @rate_limited(lambda found: found)
    async def fetch(found):
        pytest.fail("ran")

    @rate_limited(lambda found: found)
    def plain(found):
        pytest.fail("ran")

    for found in (None, "10/s", blocking(MADE_AT_IMPORT)):
        with pytest.raises(TypeError, match="for an async def it must return an ApiQueue"):
            await fetch(found)
    for found in (None, "10/s", MADE_AT_IMPORT):
        with pytest.raises(TypeError, match=r"for a plain def it must return a blocking\(queue\)"):
            plain(found)


@pytest.mark.parametrize("wrong", ["10/s", Rate(10), None, 10, ApiQueue])
def test_what_is_no_queue_is_refused(wrong):
    """With the line that is to be written instead."""
    with pytest.raises(TypeError, match=r'write queue = ApiQueue\("10/s"\) once, and @rate_lim'):
        rate_limited(wrong)


def test_bare_decorator_is_refused():
    """Over an async def at once; over a plain one, which may find queues, when it is called."""
    words = r'write queue = ApiQueue\("10/s"\), and @rate_limited\(queue\)'
    for function in (fetch, async_generator):
        with pytest.raises(TypeError, match=words):
            rate_limited(function)
    bare = rate_limited(sync)
    for args, kwargs in (((), {}), ((1,), {}), (("a", "b"), {}), ((), {"a": 1})):
        with pytest.raises(TypeError, match=words):
            bare(*args, **kwargs)


async def test_key_that_can_be_called():
    """A callable key is a function of the arguments, one that returns it gives it."""
    queue = ApiQueue("10/s", lanes={Callable: "1/s"})
    by_key = rate_limited(queue, key=lambda *_: Callable)(Callable.none)
    await by_key()
    await by_key()
    assert now() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "a", "keys": ("b",)}, "not both"),
        ({"keys": "abc"}, "a tuple or list of keys"),
        ({"key": fetch}, "key must be a plain function"),
        ({"cost": fetch}, "cost must be a plain function"),
        ({"settle": 3}, "settle must be a function"),
    ],
)
def test_wrong_options_are_refused(options, words):
    """At decoration, not at the first call."""
    with pytest.raises(TypeError, match=words):
        rate_limited(MADE_AT_IMPORT, **options)


def test_plain_function_with_coroutine():
    """A plain function that returns a coroutine has not made its call when its slot ends."""

    async def call():
        pass

    @rate_limited(blocking(ApiQueue("100/s")))
    def get():
        return call()

    with pytest.raises(TypeError):
        result = get()
        assert inspect.iscoroutine(result)
        result.close()


@pytest.mark.parametrize("kind", [classmethod, staticmethod, property])
@pytest.mark.parametrize("function", [fetch, sync])
@pytest.mark.parametrize(
    "decorator",
    [
        rate_limited(MADE_AT_IMPORT),
        rate_limited(blocking(MADE_AT_IMPORT)),
        rate_limited(lambda *_: MADE_AT_IMPORT),
    ],
)
def test_decorators_in_the_wrong_order(decorator, function, kind):
    """Refused with the right order, as what comes out would be no such method."""
    name, kind_name = function.__name__, kind.__name__
    words = (
        f"cannot decorate the @{kind_name} {name}: write @{kind_name} first, and "
        r"@rate_limited\(...\) below it"
    )
    with pytest.raises(TypeError, match=words):
        decorator(kind(function))


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
@pytest.mark.parametrize("function", [fetch, sync])
def test_bare_decorator_over_methods(kind, function):
    """At once, with what to write."""
    with pytest.raises(TypeError, match=r"got .* instead of a queue.*@rate_limited\(queue\)"):
        rate_limited(kind(function))


async def test_decorated_property():
    """In the right order, it is awaited."""

    class Client:
        @property
        @rate_limited(MADE_AT_IMPORT)
        async def version(self):
            return 3

    assert await Client().version == 3
