"""Addresses of shared servers: what is read, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioapiqueue_run.cli.run.shared_address import connected, read_address

FORM = "the URL must have one of these forms: redis://USER:PASSWORD@HOST:6379/0, "
OPTION = "an option is unknown or given twice, or a password contains an & (write %26 instead)"


@pytest.mark.parametrize(
    ("url", "shown", "nodes"),
    [
        ("redis://host", "redis://host", [("host", 6379)]),
        ("redis://host:1/", "redis://host:1/", [("host", 1)]),
        ("REDIS://host:65535/7", "REDIS://host:65535/7", [("host", 65535)]),
        ("redis://host?db=3", "redis://host", [("host", 6379)]),
        ("redis://[::1]:7", "redis://[::1]:7", [("::1", 7)]),
        ("redis://:pw@host", "redis://:***@host", [("host", 6379)]),
        ("redis://me:pw@host", "redis://me:***@host", [("host", 6379)]),
        ("redis://m%40e:p@w@host", "redis://m%40e:***@host", [("host", 6379)]),
        ("redis://host?username=me&password=pw", "redis://host", [("host", 6379)]),
        ("rediss://host?ssl_cert_reqs=none", "rediss://host", [("host", 6379)]),
        ("unix:///run/a%20b.sock", "unix:///run/a%20b.sock", []),
        ("unix://:pw@/run/r.sock?db=2", "unix://:***@/run/r.sock", []),
        ("unix:///run/r.sock?password=pw", "unix:///run/r.sock", []),
        (
            "rediss+cluster://me:pw@one:1,two",
            "rediss+cluster://me:***@one:1,two",
            [("one", 1), ("two", 6379)],
        ),
        (
            "redis+sentinel://one,two:2/main/5?sentinel_password=pw",
            "redis+sentinel://one,two:2/main/5",
            [("one", 26379), ("two", 2)],
        ),
    ],
)
def test_addresses_are_shown_without_password(url, shown, nodes):
    """Every form of URL is read, and shown as it was written, without password and options."""
    address = read_address(url)
    assert str(address) == shown
    assert list(address.nodes) == nodes
    assert "pw" not in repr(address)


def test_address_has_what_a_client_needs():
    """User, password and options come out decoded, and typed."""
    url = "redis+sentinel://m%40e:p%2Fw@h/main/2?socket_timeout=1.5"
    address = read_address(f"{url}&sentinel_username=su&sentinel_password=sp")
    assert (address.name, address.kind) == ("main", "redis+sentinel")
    login = {"username": "m@e", "password": "p/w", "db": 2}
    sentinel = {"sentinel_username": "su", "sentinel_password": "sp"}
    assert address.settings == {**login, **sentinel, "socket_timeout": 1.5}
    secure = read_address(f"rediss://h?ssl_ca_certs={quote(__file__)}&ssl_check_hostname=false")
    options = {"ssl_ca_certs": __file__, "ssl_check_hostname": False}
    assert secure.settings == {"ssl": True, **options}
    assert read_address("rediss://h/5").settings == {
        "ssl": True,
        "ssl_check_hostname": True,
        "db": 5,
    }


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", FORM),
        ("host:6379", FORM),
        ("https://:hid@host", FORM),
        ("redis:/:hid@host", FORM),
        ("redis://", FORM),
        ("redis:///0", FORM),
        ("redis://:hid@host:port", FORM),
        ("redis://:hid@host:65536", FORM),
        ("redis://:hid@host:0", FORM),
        ("redis://:hid@host:6379000", FORM),
        ("redis+cluster://:hid@host:637900000", FORM),
        ("redis://:hid@host:", FORM),
        ("redis://:hid@ho\x07st", FORM),
        ("redis://:hid@[::1", FORM),
        ("redis://:hi[d@host", FORM),
        ("redis://:hid@host/nul", FORM),
        ("redis://:hid@host/-1", FORM),
        ("redis://:hi/d@host", "%2F for /"),
        ("redis://:h:1?i=d@host", "%3F for ?"),
        ("redis://:hi#d@host", "%23 for #"),
        ("redis://hid@host", FORM),
        ("redis://:hid@one,two", FORM),
        ("redis://:hid@host?db=x", FORM),
        ("redis://:hid@host?db=1&db=2", "given twice"),
        ("redis://:hid@host?socket_timeout=-1", '"socket_timeout" must be a number of seconds'),
        ("redis://:hid@host:６３７９", FORM),  # noqa: RUF001
        ("redis://:hid@host?tiemout=1", OPTION),
        (
            "redis://:hid@host?ssl_ca_certs=x",
            f"{OPTION}; the options of redis:// are db, username,",
        ),
        ("redis://:hid@host?sentinel_password=hid", OPTION),
        ("redis://host?password=x&hid", OPTION),
        ("redis://host?pass%77ord=x&hid=1", OPTION),
        ("redis://host?tiemout=1&password=hid", OPTION),
        ("rediss://:hid@host?ssl_ca_certs=/no/such", "must be a readable file"),
        ("redis+cluster://:hid@host/1", FORM),
        ("redis+cluster://:hid@host?db=1", "the options of redis+cluster:// are username,"),
        ("redis+sentinel://:hid@host", FORM),
        ("redis+sentinel://hid/@host", "%2F for /"),
        ("unix://:hid@host/run/r.sock", FORM),
        ("unix://", FORM),
    ],
)
def test_malformed_addresses_are_refused(url, remedy):
    """Each message has what to write, and quotes nothing that could be a part of a password."""
    with pytest.raises(ValueError, match=re.escape(remedy)) as refused:
        read_address(url)
    assert "hid" not in str(refused.value)
    assert refused.value.__cause__ is None


_MARK = "Zq9"
_PASSWORDS = st.lists(st.sampled_from([_MARK, *"/?#@:%[] &=,+;\\\"'é\x1b"]), min_size=1).map(
    lambda parts: _MARK + "".join(parts)
)


@example(scheme="redis", raw=":1?", rest="/0", careful=False)
@example(scheme="redis", raw="@Zq9/Zq9", rest="", careful=False)
@example(scheme="redis", raw="Zq9&Zq9", rest="", careful=False)
@example(scheme="redis+sentinel", raw="Zq9/", rest="", careful=False)
@given(
    scheme=st.sampled_from(["redis", "rediss", "redis+cluster", "redis+sentinel", "http", "unix"]),
    raw=_PASSWORDS,
    rest=st.sampled_from(["", "/0", "/main", "/0?db=1", "/x?tiemout=1"]),
    careful=st.booleans(),
)
def test_no_password_is_ever_shown(scheme, raw, rest, careful):
    """However badly it is written into the URL: not in the address's text, nor in the error's."""
    written = quote(raw, safe="") if careful else raw
    for url in (
        f"{scheme}://me:{written}@host:1{rest}",
        f"{scheme}://:{written}@host{rest}",
        f"{scheme}://{written.replace(':', '')}@host{rest}",
        f"{scheme}://host{rest}?password={written}",
        f"{scheme}://host{rest}?sentinel_password={written}",
    ):
        try:
            address = read_address(url)
        except ValueError as error:
            shown = f"{error} {error.__cause__!r}"
        else:
            said = f"with {address.settings.get('password')} in it"
            shown = f"{address} {address!r} {address.scrubbed(said)}"
        assert _MARK not in shown


def test_a_servers_words_are_scrubbed():
    """What a server quotes of what it was sent does not come through, whole or in URL's form."""
    address = read_address("redis+sentinel://me:p%2Fw@h/main?sentinel_password=geheim")
    said = "unknown command `HELLO`, with args beginning with: `3` `AUTH` `me` `p/w`"
    assert address.scrubbed(said) == "unknown command `HELLO`"
    assert address.scrubbed("p/w p%2Fw geheim\n\x1b[2J me") == "*** *** ***  [2J me"


@pytest.mark.parametrize("url", ["redis://h", "unix:///run/r.sock", "redis+sentinel://h/main"])
async def test_many_queues_may_ask_at_once(url):
    """Any number of queues may ask at once.

    Each has a connection meanwhile; one too many would look like a server that is lost.
    """
    async with connected(read_address(url)) as client:
        assert client.connection_pool.max_connections > 100_000
