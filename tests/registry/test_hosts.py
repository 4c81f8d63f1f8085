"""Hosts in limits.toml, in `--limit` and in code: their names, their lanes, what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue import Rate
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue.registry.spi import PathLanes, host_called, origin_of, plan_of, target_of
from tests.helpers.registries import queue_of
from tests.helpers.yardstick import yards

HOST = "https://api.github.com"
FILE = """
[hosts]
"slack.com" = "1/s"

[hosts."API.github.com"]
rate = "10/s"
concurrency = 5
lanes = {"GET /search/*" = "30/min", POST = "80/min"}

[ec2]
rate = "5/s"

[default]
rate = "3/s"
"""


def problems_of(make):
    """Return what is wrong."""
    with pytest.raises(LimitsError) as caught:
        make()
    return list(caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "api.github.com",
        "https://api.github.com",
        "HTTPS://API.GitHub.com:443/",
        " api.github.com. ",
    ],
)
def test_one_name_for_each_host(text):
    """However it is written."""
    assert host_called(text) == HOST


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("api.test:8443", "https://api.test:8443", ("api.test", 8443, True)),
        ("http://intranet", "http://intranet", ("intranet", 80, False)),
        ("http://intranet:8080", "http://intranet:8080", ("intranet", 8080, False)),
        ("http://10.0.0.5:8080", "http://10.0.0.5:8080", ("10.0.0.5", 8080, False)),
        ("my_host.test", "https://my_host.test", ("my_host.test", 443, True)),
        ("xn--bcher-kva.test", "https://xn--bcher-kva.test", ("xn--bcher-kva.test", 443, True)),
    ],
)
def test_port_and_scheme_are_part_of_the_name(text, name, address):
    """They are another server."""
    assert host_called(text) == name
    assert origin_of(name) == address
    assert origin_of(name).service == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a host"),
        ("ftp://api.test", "is not a host"),
        ("https://", "is not a host"),
        ("https://me@api.test", "is not a host"),
        ("api.test:0", "is not a host"),
        ("api.test:99999", "is not a host"),
        ("api..test", "is not a host"),
        ("-api.test", "is not a host"),
        ("api.test/v1", "has a path"),
        ("api.test?x", "has a path"),
        ("*.github.com", "stands for several hosts"),
        ("10.0.0.1", "is an IP address"),
        ("http://[::1]", "is an IP address"),
        ("http://2130706433", "is not a host"),
        ("http://10.0.0.256", "is not a host"),
        ("[::1]:443", "is an IP address"),
        ("bücher.test", 'write "xn--bcher-kva.test"'),
        ("intranet:80", "has port 80, with TLS or without"),
        ("default", "this is not a host"),
        ("rate", "this is not a host"),
        (f"{'a' * 63}.{'b' * 63}.test", "is longer than 128"),
    ],
)
def test_what_is_no_host_is_refused(text, why):
    """Each with its reason, and its place in the file."""
    (problem,) = problems_of(lambda: Registry.parse(f'[hosts."{text}"]\nrate = "1/s"'))
    assert problem.startswith("limits.toml, line 1: hosts.")
    assert why in problem


@pytest.mark.parametrize(
    ("lane", "why"),
    [
        ("*", "is not a lane of a host"),
        ("", "needs one space between method and path"),
        ("search/*", 'is a path without its leading /: write "/search/*"'),
        ("Report/x", 'is a path without its leading /: write "/Report/x"'),
        ("get /search", "has its method in lower case: write GET"),
        ("GET search", "is not a lane of a host"),
        ("GTE /search", "has the method GTE, which HTTP does not define: did you mean GET?"),
        ("POSTT", "has the method POSTT, which HTTP does not define: did you mean POST?"),
        ("gte /search", "has the method gte, which HTTP does not define: did you mean GET?"),
        ("OTHER", "has the method OTHER, which HTTP does not define: write one such as GET"),
        ("repos/*", 'is a path without its leading /: write "/repos/*"'),
        ("GET  /search", "needs one space between method and path"),
        (" /search", "needs one space between method and path"),
        ("GET/search", "needs one space between method and path"),
        ("/a b", "has characters that a path cannot have"),
        ("/ä", "has characters that a path cannot have"),
        ("/repos/{owner}/x", "write a * for each"),
        ("/", 'write "/*" for all paths'),
        ("GET /", 'write "/*" for all paths'),
        ("/search?q=*", "has a query"),
        ("/search#x", "has a query"),
        ("/a/*b*/c", "has two * between slashes"),
        ("/" + "a" * 100, "more than 100 characters"),
    ],
)
def test_what_is_no_lane_is_refused(lane, why):
    """With its line."""
    text = f'[hosts."api.test"]\nrate = "1/s"\nlanes = {{"{lane}" = "1/s"}}'
    (problem,) = problems_of(lambda: Registry.parse(text))
    assert problem.startswith("limits.toml, line 3: hosts.'api.test'.lanes")
    assert why in problem


METHODS = """
    GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK
    UNLOCK REPORT SEARCH MKCALENDAR VERSION-CONTROL CHECKOUT PURGE QUERY
"""


@pytest.mark.parametrize("method", METHODS.split())
def test_methods_of_http_are_lanes(method):
    """Those of HTTP, of WebDAV, and what caches know."""
    lanes = {method: "1/s", f"{method} /x": "2/s"}
    assert Registry({HOST: ServiceLimits("9/s", lanes=lanes)}).hosts == {HOST: [*lanes]}


def test_wrong_methods_are_named_at_once():
    """Each with the table and the key that it stands in."""
    text = f"""
        [hosts."{HOST}"]
        rate = "10/s"
        lanes = {{"GTE /a" = "1/s", "POSTT" = "1/s", "GET /b" = "1/s"}}
        [hosts."https://else.test"]
        rate = "10/s"
        lanes = {{"PUTT /c" = "1/s"}}
    """
    found = problems_of(lambda: Registry.parse(text))
    assert [problem.partition(": ")[0] for problem in found] == [
        "limits.toml, line 4",
        "limits.toml, line 4",
        "limits.toml, line 7",
    ]
    assert [re.findall("lanes.(.*?): .*did you mean (.*)[?]", one) for one in found] == [
        [("'GTE /a'", "GET")],
        [("POSTT", "POST")],
        [("'PUTT /c'", "PUT")],
    ]


def test_keys_of_aws_are_refused():
    """A host has neither Regions and accounts, nor parameters, nor published limits."""
    keys = {"scope": [], "buckets": {}, "check": False, "preset": "none", "share": "5%"}
    for key, value in keys.items():
        host = {"rate": "1/s", key: value}
        (problem,) = problems_of(lambda host=host: Registry({HOST: host}))
        assert problem.endswith(
            f".{key}: {key} is only for AWS services, but this is a host: remove {key}"
        )


def test_all_that_is_wrong_comes_at_once():
    """The file's other tables too; twice the same host, a table that is none, a slip."""
    text = """
[hosts."api.test"]
rate = "1/s"
rat = 3
[hosts."https://api.test/"]
rate = "1/s"
["other.test"]
rate = "1/s"
[hosts."lanes.test"]
lanes = {"/x" = "1/s"}
"""
    problems = problems_of(lambda: Registry.parse(text))
    assert [re.sub(r"limits.toml, line (\d+): .*", r"\1", one) for one in problems] == [
        "4",
        "5",
        "7",
        "9",
    ]
    assert "did you mean 'rate'?" in problems[0]
    assert "'api.test' is the same host: remove one of the two" in problems[1]
    assert problems[2].endswith('for a host, write [hosts."other.test"]')
    assert "there are lanes, but no limit for the host as a whole" in problems[3]
    (problem,) = problems_of(lambda: Registry.parse("hosts = 3"))
    assert problem == 'limits.toml, line 1: hosts: 3 is not a table: write [hosts."api.github.com"]'


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (
            "[hosts.api.test]",
            'hosts.api: the name of a host needs quotes: write [hosts."api.test"]',
        ),
        ("[api.test]", 'this is not an AWS service: for a host, write [hosts."api.test"]'),
        ('["api.test"]', 'this is not an AWS service: for a host, write [hosts."api.test"]'),
        ('["API.my.Test"]', 'this is not an AWS service: for a host, write [hosts."API.my.Test"]'),
        ('[host."api.test"]', "this is not an AWS service: for a host, write [hosts."),
        (
            "[services.ec2]",
            "this is not an AWS service: write the service alone, as [ec2]",
        ),
        ("[aws.test]", 'this is not an AWS service: for a host, write [hosts."aws.test"]'),
    ],
)
@pytest.mark.parametrize("check", ["", "check = false\n"])
def test_names_that_are_not_quoted(head, problem, check):
    """What TOML makes of them is tables in tables; whether names are checked is nothing to it."""
    (found,) = problems_of(lambda: Registry.parse(f'{check}{head}\nrate = "1/s"'))
    assert problem in found


def test_several_names_that_are_not_quoted():
    """Each is named, those in a table of values, too."""
    text = """
[hosts]
slack.com = "1/s"
[hosts.api.github.com]
rate = "1/s"
[hosts.api.gitlab.com]
rate = "1/s"
"""
    assert [one.partition("write ")[2] for one in problems_of(lambda: Registry.parse(text))] == [
        '[hosts."slack.com"]',
        '[hosts."api.github.com"]',
        '[hosts."api.gitlab.com"]',
    ]


@pytest.mark.parametrize("key", ["lane", "bucket.x", "limits"])
def test_slip_in_a_service_of_aws(key):
    """It is none of a host."""
    problems = problems_of(lambda: Registry.parse(f'[ec2.{key}]\nDescribeVolumes = "1/s"'))
    assert "unknown key" in problems[0]
    assert not any("for a host" in one for one in problems)


def test_file():
    """Hosts have one queue each, whatever the account and the Region, and lanes in it."""
    registry = Registry.parse(FILE)
    assert registry.hosts == {HOST: ["GET /search/*", "POST"], "https://slack.com": []}
    call = registry.find_call(HOST, "GET /search/*", region="eu-west-1", account="1")
    assert (call.queue.name, call.keys, call.cost) == (HOST, ("GET /search/*", "GET"), 1)
    assert registry.find_call(HOST, "GET").queue is call.queue
    found = {(one.service, one.operation): one for one in registry}
    assert found[HOST, None].limits == (Rate(10, per=1),)
    assert found[HOST, None].concurrency == 5
    assert found[HOST, "POST"].limits == (Rate(80, per=60),)
    assert found[HOST, "POST"].source == "limits.toml, line 8"
    assert found["https://slack.com", None].scope == ()


def test_hosts_take_nothing_from_the_default():
    """It is for services of AWS: nor does a host that is named nearly like another one."""
    registry = Registry({"https://my-api.test": "1/s"}, default="3/s")
    for other in ("https://other.test", "HTTPS://other.test", "https://"):
        assert queue_of(registry, other) is None
    assert queue_of(registry, "https://myapi.test") is None
    assert queue_of(registry, "iam") is not None


@pytest.mark.parametrize("name", ["https://API.test", "HTTPS://api.test:443/", "https://api.test."])
def test_any_form_of_the_name_finds_it(name):
    """In code, in a file, and where it is looked up."""
    registry = Registry({name: "1/s"})
    for one in (name, "https://api.test"):
        assert queue_of(registry, one).name == "https://api.test"
        assert registry.find_call(one, "GET").keys == ("GET",)
        assert plan_of(registry, one).queue.limits == (Rate(1, per=1),)
    assert Registry.parse(f'["{name}"]\nrate = "1/s"').hosts == {"https://api.test": []}


def test_requests_by_their_urls():
    """With the keys of all lanes that they come under."""
    registry = Registry.parse(FILE)
    found = registry.find_request("GET", "https://me:secret@API.github.com/search/x?q=/y#z")
    assert (found.queue.name, found.keys) == (HOST, ("GET /search/*", "GET"))
    assert registry.find_request("POST", "https://slack.com").keys == ("POST",)
    for other in ("https://other.test/", "http://slack.com/", "https://slack.com:8443/"):
        assert registry.find_request("GET", other) is None
    for other in ("https://1.1.1.1/", "https://[::1]/", "https://münchen.test/"):
        assert registry.find_request("GET", other) is None
    assert registry.find_request("GET", f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.test/") is None
    assert Registry({"https://xn--bcher-kva.test": "1/s"}).find_request(
        "GET", "https://bücher.test"
    )
    for wrong in ("slack.com/x", "ftp://slack.com/", "https://", "https://[x/"):
        with pytest.raises(ValueError, match=r"URL|IPv6"):
            registry.find_request("GET", wrong)


def test_in_code():
    """By the name with its scheme, as limits, as a table, or as a `ServiceLimits`."""
    limits = ServiceLimits("5/s", lanes={"GET /x": "1/s"})
    registry = Registry({HOST: "1/s", "http://a.test": {"rate": "2/s"}, "https://b.test": limits})
    assert list(registry.hosts) == [HOST, "http://a.test", "https://b.test"]
    assert queue_of(registry, "https://b.test", account="1") is queue_of(registry, "https://b.test")
    with_buckets = ServiceLimits(
        "1/s", buckets={"b": {"operations": ["GET"], "rate": "1/s"}}, check=False
    )
    (problem,) = problems_of(lambda: Registry({HOST: with_buckets}))
    assert "buckets is only for AWS services, but this is a host" in problem
    (problem,) = problems_of(lambda: Registry({HOST: ServiceLimits("1/s", scope=["account"])}))
    assert "scope is only for AWS services, but this is a host" in problem


def test_options_come_on_top_of_the_file():
    """Each replaces what the file has for the same requests, and nothing else."""
    base = Registry.parse(FILE)
    options = [f"{HOST}=20/s", f"GET {HOST}/search/*=5/min", f"{HOST}/repos/*=1/s"]
    registry = Registry.from_options(options, base=base)
    found = {(one.service, one.operation): str(one.limits[0]) for one in registry if one.limits}
    assert found[HOST, None] == "20/s"
    assert found[HOST, "GET /search/*"] == "5/min"
    assert found[HOST, "/repos/*"] == "1/s"
    assert found[HOST, "POST"] == "80/min"
    assert registry.services[HOST].concurrency == 5


def test_option_alone():
    """A host without a limit of its own may have lanes; each is one queue for all."""
    registry = Registry.from_options([f"POST {HOST}/=1/s"])
    assert registry.hosts == {HOST: ["POST"]}
    assert registry.services[HOST].scope == ()


def test_option_with_a_path_that_has_an_equals_sign():
    """No limit has one, so that the last is the one that counts."""
    registry = Registry.from_options(["https://api.test/a=b/*=2/s"])
    assert registry.hosts == {"https://api.test": ["/a=b/*"]}


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("api.github.com=1/s", "for a host, write https://api.github.com=10/s"),
        ("slack.com=1/s", "for a host, write https://slack.com=10/s"),
        ("API.GitHub.com=1/s", "for a host, write https://api.github.com=10/s"),
        ("POST api.test/x/*=1/s", "for a host, write POST https://api.test/x/*=10/s"),
        ("api.test:8080=1/s", "for a host, write https://api.test:8080=10/s"),
        ("GET /x=1/s", "'GET /x' names no host: write GET https://HOST/x=10/s"),
        ("/x/*=1/s", "names no host: write https://HOST/x/*=10/s"),
        ("POST=1/s", "names no host: write POST https://HOST=10/s"),
        ("https://api.test GET=1/s", "is not a host or a lane of one: write GET https://"),
        ("https://api.test.GET /x=1/s", "is not a host or a lane of one: write GET https://"),
        ("https://api.test/a b=1/s", "is not a host or a lane of one: write GET https://"),
        ("wss://api.test=1/s", "is not a host: write one such as https://"),
        ("https://api.test?x=1/s", "has a query"),
        ("ec2.describesnapshots=1/s", "did you mean 'DescribeSnapshots'?"),
        ("https://api.test", "write SERVICE=LIMIT"),
        ("https://10.0.0.1=1/s", "is an IP address"),
        ("get https://api.test=1/s", "has its method in lower case: write GET"),
        ("GTE https://api.test=1/s", "has the method GTE, which HTTP does not define"),
        ("https://api.test/a?b=1/s", "has a query"),
        ("https://api.test=fast", "'fast' is not a limit"),
    ],
)
def test_wrong_options(option, why):
    """Each with its option before it."""
    (problem,) = problems_of(lambda: Registry.from_options([option]))
    assert problem.startswith(f"--limit {option}: ")
    assert why in problem


def test_same_option_twice():
    """However it is written."""
    options = ["https://api.test=1/s", "HTTPS://API.test:443/=2/s"]
    (problem,) = problems_of(lambda: Registry.from_options(options))
    assert problem.endswith("is for the same calls: write one option, with a comma between limits")


LANES = [
    "POST",
    "/repos/*",
    "GET /repos/*",
    "/repos/*/*/issues",
    "/exact",
    "/exact*",
    "/user-*/x",
    "/caf%C3%A9",
    "/%41",
]


@pytest.mark.parametrize(
    ("method", "path", "lanes"),
    [
        ("GET", "/repos/a/b/issues", ("/repos/*/*/issues", "GET")),
        ("GET", "/repos/a/b/c/issues", ("GET /repos/*", "GET")),
        ("GET", "/repos/a", ("GET /repos/*", "GET")),
        ("PUT", "/repos/a", ("/repos/*", "PUT")),
        ("POST", "/repos/a", ("/repos/*", "POST")),
        ("POST", "/gists", ("POST",)),
        ("GET", "/exact", ("/exact", "GET")),
        ("GET", "/exact/", ("/exact*", "GET")),
        ("GET", "/user-1/x", ("/user-*/x", "GET")),
        ("GET", "/user-1/2/x", ("GET",)),
        ("GET", "/%65xact", ("/exact", "GET")),
        ("GET", "/user-%31%2F2/x", ("/user-*/x", "GET")),
        ("GET", "/repos%2Fa", ("GET",)),
        ("GET", "/%zz%4", ("GET",)),
        ("GET", "/caf%c3%a9", ("/caf%C3%A9", "GET")),
        ("GET", "/A", ("/%41", "GET")),
        ("OPTIONS", "*", ("OPTIONS",)),
        ("get", "/exact", ("/exact", "OTHER")),
        ("get", "/else", ("OTHER",)),
        ("X" * 40, "/else", ("OTHER",)),
    ],
)
def test_lanes_of_a_request(method, path, lanes):
    """That of its method, and of those with a path the most precise, whatever their order."""
    for names in (LANES, LANES[::-1]):
        registry = Registry({HOST: ServiceLimits("1/s", lanes=dict.fromkeys(names, "1/s"))})
        operation = PathLanes(names).operation_of(method, path)
        assert registry.find_call(HOST, operation).keys == lanes


@pytest.mark.parametrize(
    "pair", [("/a/*/c", "/*/b/c"), ("GET /a/*/c", "/a/b/*"), ("/search", "/search*")]
)
def test_which_of_two_that_fit_does_not_depend_on_their_order(pair):
    """Be they as precise as each other."""
    path = "/search" if "search" in pair[0] else "/a/b/c"
    assert PathLanes(pair).operation_of("GET", path) == PathLanes(pair[::-1]).operation_of(
        "GET", path
    )


def test_lane_of_a_host_may_have_a_star_anywhere():
    """Its queue takes such a lane, and a weight for it: the registry finds the lane of a path."""
    lane = "GET /repos/*/issues"
    limits = ServiceLimits(
        "9/s", lanes={lane: "1/s"}, order="fair", weights={lane: 3}, adaptive=True
    )
    call = Registry({HOST: limits}).find_call(HOST, lane)
    assert call.keys == (lane, "GET")
    assert lane in call.queue.stats.lanes


def fits(lane, path):
    """Return whether a lane's path fits, segment by segment, as the documentation says it."""
    if lane.endswith("*"):
        fixed = lane[:-1]
        return any(fits_whole(fixed, path[:end]) for end in range(len(path) + 1))
    return fits_whole(lane, path)


def fits_whole(lane, path):
    """Return whether a path without a * at its end fits."""
    wanted, given = lane.split("/"), path.split("/")
    if len(wanted) != len(given):
        return False
    for one, other in zip(wanted, given, strict=True):
        begin, star, end = one.partition("*")
        whole = other.startswith(begin) and other.endswith(end)
        if not (whole and len(other) >= len(begin) + len(end) if star else one == other):
            return False
    return True


@given(st.text("ab/=", max_size=12), st.text("/*ab=", min_size=1, max_size=8))
def test_lanes_fit_as_they_are_explained(path, lane):
    """A request comes under a lane if it fits; and `--limit` has a word for each lane."""
    lane = f"/{lane}"
    try:
        Registry({HOST: ServiceLimits("1/s", lanes={lane: "1/s"})})
    except LimitsError:  # not every text is a lane
        return
    operation = PathLanes([lane]).operation_of("GET", f"/{path}")
    assert (operation == f"GET {lane}") == fits(lane, f"/{path}")
    for one in (lane, f"GET {lane}"):
        registry = Registry.from_options([f"{target_of(HOST, one)}=1/s"])
        assert registry.hosts == {HOST: [one]}


def test_path_that_nearly_fits_takes_no_time():
    """However long it is, and however many * a lane has."""
    lanes = PathLanes(["/" + "a*/" * 33 + "x"])
    path = "/" + ("a" * 3000 + "/") * 33 + "y"
    assert lanes.operation_of("GET", path) == "GET"
    assert yards(lambda: lanes.operation_of("GET", path), enough=1) < 2
