"""Hosts in limits.toml, in `--limit` and in code: their names, their lanes, what is refused."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue import Rate
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue.registry._hosts import (
    PathLanes,
    address_of,
    host_called,
    lane_problem,
    read_target,
    target_of,
)

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
        ("my_host.test", "https://my_host.test", ("my_host.test", 443, True)),
        ("xn--bcher-kva.test", "https://xn--bcher-kva.test", ("xn--bcher-kva.test", 443, True)),
    ],
)
def test_port_and_scheme_are_part_of_the_name(text, name, address):
    """They are another server."""
    assert host_called(text) == name
    assert address_of(name) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no host"),
        ("ftp://api.test", "is no host"),
        ("https://", "is no host"),
        ("https://me@api.test", "is no host"),
        ("api.test:0", "is no host"),
        ("api.test:99999", "is no host"),
        ("api..test", "is no host"),
        ("-api.test", "is no host"),
        ("api.test/v1", "has a path"),
        ("api.test?x", "has a path"),
        ("*.github.com", "is no single host"),
        ("10.0.0.1", "is an address"),
        ("[::1]:443", "is an address"),
        ("bücher.test", 'write it as "xn--..."'),
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
        ("*", "is no lane of a host"),
        ("search/*", "is no lane of a host"),
        ("get /search", "is no lane of a host"),
        ("GET search", "is no lane of a host"),
        ("GET  /search", "is no lane of a host"),
        ("/a b", "is no lane of a host"),
        ("/ä", "is no lane of a host"),
        ("/search?q=*", "has a query"),
        ("/search#x", "has a query"),
        ("/a/*b*/c", "has two * between slashes"),
        ("/" + "a" * 128, "is longer than 128"),
    ],
)
def test_what_is_no_lane_is_refused(lane, why):
    """With its line."""
    text = f'[hosts."api.test"]\nrate = "1/s"\nlanes = {{"{lane}" = "1/s"}}'
    (problem,) = problems_of(lambda: Registry.parse(text))
    assert problem.startswith("limits.toml, line 3: hosts.'api.test'.lanes.")
    assert why in problem


def test_keys_of_aws_are_refused():
    """A host has neither Regions and accounts, nor parameters, nor published limits."""
    keys = {"scope": [], "buckets": {}, "check": False, "preset": "none", "share": "5%"}
    for key, value in keys.items():
        host = {"rate": "1/s", key: value}
        (problem,) = problems_of(lambda host=host: Registry({HOST: host}))
        assert problem.endswith(f"a host has no {key}, which is for services of AWS: leave it out")


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
    assert "'api.test' is the same host: leave one of them" in problems[1]
    assert problems[2].endswith('for a host, [hosts."other.test"]')
    assert "lanes without a queue" in problems[3]
    (problem,) = problems_of(lambda: Registry.parse("hosts = 3"))
    assert problem == 'limits.toml, line 1: hosts: 3 is no table: write [hosts."api.github.com"]'


def test_file():
    """Hosts have one queue each, whatever the account and the Region, and lanes in it."""
    registry = Registry.parse(FILE)
    assert registry.hosts == {HOST: ["GET /search/*", "POST"], "https://slack.com": []}
    call = registry.find_call(HOST, "GET /search/*", region="eu-west-1", account="1")
    assert (call.queue.name, call.keys, call.cost) == (HOST, ("GET /search/*",), 1)
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
    assert registry.find("https://other.test") is None
    assert registry.find("https://myapi.test") is None
    assert registry.find("iam") is not None


def test_in_code():
    """By the name with its scheme, as limits, as a table, or as a `ServiceLimits`."""
    limits = ServiceLimits("5/s", lanes={"GET /x": "1/s"})
    registry = Registry({HOST: "1/s", "http://a.test": {"rate": "2/s"}, "https://b.test": limits})
    assert list(registry.hosts) == [HOST, "http://a.test", "https://b.test"]
    assert registry.find("https://b.test", account="1") is registry.find("https://b.test")
    with_buckets = ServiceLimits(
        "1/s", buckets={"b": {"operations": ["GET"], "rate": "1/s"}}, check=False
    )
    (problem,) = problems_of(lambda: Registry({HOST: with_buckets}))
    assert "a host has no buckets" in problem


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


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("api.github.com=1/s", "for a host, write https://api.github.com=10/s"),
        ("https://api.test", "write SERVICE=LIMIT"),
        ("https://10.0.0.1=1/s", "is an address"),
        ("get https://api.test=1/s", "is no lane of a host"),
        ("https://api.test/a?b=1/s", "has a query"),
        ("https://api.test=fast", "'fast' is no limit"),
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
    assert problem.endswith("is for the same calls: put a comma between several limits")


@pytest.mark.parametrize(
    ("method", "path", "lane"),
    [
        ("GET", "/repos/a/b/issues", "/repos/*/*/issues"),
        ("GET", "/repos/a/b/c/issues", "GET /repos/*"),
        ("GET", "/repos/a", "GET /repos/*"),
        ("PUT", "/repos/a", "/repos/*"),
        ("POST", "/repos/a", "/repos/*"),
        ("POST", "/gists", "POST"),
        ("GET", "/exact", "/exact"),
        ("GET", "/exact/", "GET"),
        ("GET", "/user-1/x", "/user-*/x"),
        ("GET", "/user-1/2/x", "GET"),
        ("GET", "/a.b", "GET"),
        ("OPTIONS", "*", "OPTIONS"),
        ("get", "/exact", "/exact"),
        ("get", "/else", "OTHER"),
        ("X" * 40, "/else", "OTHER"),
    ],
)
def test_lane_of_a_request(method, path, lane):
    """The longest path that fits, with its method before one without; else the method."""
    names = [
        "POST",
        "/repos/*",
        "GET /repos/*",
        "/repos/*/*/issues",
        "/exact",
        "/user-*/x",
        "/a*b/",
    ]
    for lanes in (names, names[::-1]):
        assert PathLanes(lanes).operation_of(method, path) == lane


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40), st.text("/*ab"))
def test_lanes_fit_as_they_are_explained(path, lane):
    """The pattern agrees with a plain one, made piece by piece; and what `--limit` has is read."""
    lane = f"/{lane}"
    if lane_problem(lane):
        return
    parts = lane.split("*")
    plain = "[^/]*".join(re.escape(one) for one in parts[:-1])
    plain = (
        re.escape(lane)
        if len(parts) == 1
        else plain + (".*" if not parts[-1] else "[^/]*" + re.escape(parts[-1]))
    )
    fits = re.fullmatch(plain, f"/{path}", re.DOTALL) is not None
    assert (PathLanes([lane]).operation_of("GET", f"/{path}") == lane) == fits
    if lane != "/":
        assert read_target(target_of(HOST, lane)) == (HOST, lane)
        assert read_target(target_of(HOST, f"GET {lane}")) == (HOST, f"GET {lane}")


def test_path_that_nearly_fits_takes_no_time():
    """However long it is, and however many * a lane has."""
    lanes = PathLanes(["/" + "a*/" * 40 + "x"])
    began = time.perf_counter()
    assert lanes.operation_of("GET", "/" + ("a" * 3000 + "/") * 40 + "y") == "GET"
    assert time.perf_counter() - began < 0.5
