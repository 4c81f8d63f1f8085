"""Which of AWS's hosts are opened, given the limits: none whose services have none."""

from __future__ import annotations

import pytest

from aioapiqueue import Registry
from aioapiqueue.registry.spi import Origin
from aioapiqueue_run.gateway.aws_hosts import label_for, labels_not_intercepted
from aioapiqueue_run.gateway.scope import HostsInScope
from aioapiqueue_run.gateway.table import table
from aioapiqueue_run.hub.spi import labels_of
from tests.helpers.aws_hosts import hosts

HOST = "https://api.github.com"


def opened(registry, host):
    """Return whether a tunnel to a host of AWS is opened."""
    return HostsInScope(registry.hosts, labels_not_intercepted(registry)).has_tunnel(
        Origin(host, 443, tls=True)
    )


def test_every_host_of_limited_services_is_opened():
    """Whatever name the rules give, with a limit of its service alone: nothing goes past it."""
    own = {service.name: label_for(service) for service in table().by_name.values()}
    every = set(own.values())
    past = [
        (service, host)
        for service, host in set(hosts())
        # An older botocore has services that the table lacks, as AWS has closed them since.
        if service in own and not every.difference({own[service]}).isdisjoint(labels_of(host))
    ]
    assert past == []


@pytest.mark.parametrize(
    ("limit", "host", "is_intercepted"),
    [
        ("ec2=1/s", "ec2.eu-west-1.amazonaws.com", True),
        ("ec2=1/s", "ec2-fips.us-east-1.amazonaws.com", True),
        ("ec2=1/s", "vpce-1a2b-3c4d.ec2.eu-west-1.vpce.amazonaws.com", True),
        ("ec2=1/s", "bucket.s3.eu-west-1.amazonaws.com", False),
        ("ec2=1/s", "ec2.s3.eu-west-1.amazonaws.com", False),
        ("ec2=1/s", "s3-us-west-2.amazonaws.com", False),
        ("ec2=1/s", "sts-fips.us-east-1.amazonaws.com", False),
        ("ec2=1/s", "vpce-1a2b-3c4d-eu-west-1a.sts.eu-west-1.vpce.amazonaws.com", False),
        ("ec2=1/s", "123456789012.ddb.eu-west-1.amazonaws.com", True),  # not known to be another's
        ("ec2=1/s", "novelties.eu-west-1.amazonaws.com", True),
        ("s3=1/s", "iam.s3.amazonaws.com", True),
        ("s3=1/s", "name-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", True),
        ("s3=1/s", "123456789012.s3-control.eu-west-1.amazonaws.com", True),
        ("s3=1/s", "bucket--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com", True),
        ("s3=1/s", "s3tables.eu-west-1.amazonaws.com", False),
        ("s3control=1/s", "bucket.s3.amazonaws.com", True),  # one label has the hosts of both
        ("cloudsearchdomain=1/s", "search-x-1a.eu-west-1.cloudsearch.amazonaws.com", True),
        ("iot-data=1/s", "abc-ats.iot.eu-west-1.amazonaws.com", True),
        ("ec2.DescribeVolumes=1/s", "ec2.eu-west-1.amazonaws.com", True),
        ("default=1/s", "sts.amazonaws.com", True),
        ("default=1/s", "novelties.eu-west-1.amazonaws.com", True),
        (f"{HOST}=1/s", "ec2.eu-west-1.amazonaws.com", False),
        (f"{HOST}=1/s", "novelties.eu-west-1.amazonaws.com", False),
    ],
)
def test_hosts_without_a_limit_are_passed_by(limit, host, is_intercepted):
    """Endpoints of all kinds: regional, FIPS, private, of a bucket, of an account, unknown."""
    assert opened(Registry.from_options([limit]), host) is is_intercepted


def test_services_without_limits_under_default():
    """What the default is for is opened; a service that is exempt from it is not."""
    registry = Registry.from_options(["default=1/s", "sts=unlimited"])
    assert opened(registry, "ec2.eu-west-1.amazonaws.com")
    assert not opened(registry, "sts.eu-west-1.amazonaws.com")


def test_preset_opens_what_it_limits():
    """A run without a limit takes AWS's own: services that have none are passed by."""
    registry = Registry.parse("", preset="aws", share="50%")
    assert opened(registry, "ec2.eu-west-1.amazonaws.com")
    assert "codebuild" not in registry.services
    assert not opened(registry, "codebuild.eu-west-1.amazonaws.com")


def test_adaptive_concerns_every_service():
    """Each is slowed down where AWS throttles."""
    registry = Registry.from_options(["ec2=1/s"], adaptive=True)
    assert opened(registry, "sts.eu-west-1.amazonaws.com")
