from __future__ import annotations

import base64

import pytest

from aioapiqueue.registry.spi import Origin
from aioapiqueue_run.gateway.upstream_proxies import UpstreamProxies

AWS = Origin("ec2.eu-west-1.amazonaws.com", 443, tls=True)


def of(environ, origin=AWS, *, tunnel=True):
    """Return host and port of the proxy for a host."""
    found = UpstreamProxies(environ).of(origin, tunnel=tunnel)
    return found and (found.host, found.port)


def test_none_without_a_variable():
    """It is reached directly."""
    assert of({}) is None
    assert of({"HTTPS_PROXY": ""}) is None
    assert of({"HTTP_PROXY": "http://proxy:3128"}) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTPS_PROXY": "http://proxy:3128"}, ("proxy", 3128)),
        ({"HTTPS_PROXY": "proxy:3128"}, ("proxy", 3128)),
        ({"HTTPS_PROXY": "http://proxy"}, ("proxy", 80)),
        ({"HTTPS_PROXY": "https://proxy"}, ("proxy", 443)),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, ("::1", 3128)),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}, ("b", 2)),
        ({"ALL_PROXY": "http://all:1"}, ("all", 1)),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://a:2"}, ("a", 2)),
    ],
)
def test_proxy_of_a_tunnel(environ, expected):
    """Lower case wins, and the variable of the kind."""
    assert of(environ) == expected


def test_proxy_without_tls_is_another():
    """What is asked for a whole URL is HTTP_PROXY."""
    environ = {"HTTPS_PROXY": "http://secure:1", "HTTP_PROXY": "http://plain:2"}
    assert of(environ) == ("secure", 1)
    assert of(environ, Origin("example.com", 80, tls=False), tunnel=False) == ("plain", 2)


def test_user_is_decoded():
    """What a URL cannot have in a password is percent-encoded there."""
    parent = UpstreamProxies({"HTTPS_PROXY": "http://me:p%40ss%3A@proxy:1"}).of(AWS, tunnel=True)
    ((name, value),) = parent.headers
    assert name == b"Proxy-Authorization"
    assert base64.b64decode(value.removeprefix(b"Basic ")) == b"me:p@ss:"


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("*", "a.example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "a.example.com", True),
        (".example.com", "a.example.com", True),
        ("*.example.com", "a.example.com", True),
        ("example.com", "notexample.com", False),
        ("Example.COM", "a.example.com", True),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "example.com", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("", "example.com", False),
        (" , other.org ,, example.com", "example.com", True),
    ],
)
def test_hosts_without_a_proxy(entry, host, direct):
    """Names, ends of names, addresses and networks, as curl and Go read them."""
    found = of({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": entry}, Origin(host, 443, tls=True))
    assert (found is None) == direct


@pytest.mark.parametrize("url", ["socks5://me:secret@proxy:1", "http://", "http://proxy:x"])
def test_what_is_no_proxy_is_refused(url):
    """With the variable, and no password."""
    with pytest.raises(ValueError, match=r"^HTTPS_PROXY: the gateway supports http://") as caught:
        UpstreamProxies({"HTTPS_PROXY": url})
    assert "secret" not in str(caught.value)
