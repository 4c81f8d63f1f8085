from __future__ import annotations

import pytest

from aioapiqueue_run.gateway.aws_hosts import intercepted_domains, is_intercepted
from tests.helpers.aws_hosts import hosts

APIS = {(service, host) for service, host in hosts() if service != "signin"}
"""All but the pages of AWS's sign-in, which are not opened."""


def test_every_endpoint_of_aws_is_opened():
    """Whatever name the rules give: with FIPS, dual stack, an account, a bucket, a partition."""
    closed = sorted(one for one in APIS if not is_intercepted(one[1]))
    assert closed == []
    assert len(APIS) > 3_000


@pytest.mark.parametrize(
    "host",
    [
        "ec2.eu-west-1.amazonaws.com",
        "vpce-1a2b-3c4d.ec2.eu-west-1.vpce.amazonaws.com",
        "vpce-1a2b-3c4d-eu-west-1a.sts.eu-west-1.vpce.amazonaws.com",
        "123456789012.ddb.eu-west-1.amazonaws.com",
        "some.bucket.s3.amazonaws.com",
        "foo.elb.s3.amazonaws.com",
        "foo.elb.s3.dualstack.us-east-1.amazonaws.com",
        "foo.eks.bucket.vpce-1a-2b.s3.us-east-1.vpce.amazonaws.com",
        "s3-us-west-2.amazonaws.com",
        "eu-west-1.queue.amazonaws.com",
        "rds.eu-west-1.amazonaws.com",
        "es.eu-west-1.amazonaws.com",
        "eks.eu-west-1.amazonaws.com",
        "api.ecr.eu-west-1.amazonaws.com",
        "novelties.eu-west-1.amazonaws.com",
        "novelties.eu-west-1.api.aws",
    ],
)
def test_names_that_rules_lack_are_opened(host):
    """Private endpoints, old names, and services that nobody knows yet."""
    assert is_intercepted(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "amazonaws.com.example.com",
        "notamazonaws.com",
        "api.github.com",
        "d111111abcdef8.cloudfront.net",
        "abc.lambda-url.eu-west-1.on.aws",
        "docs.aws.amazon.com",
        "us-east-1.signin.aws.amazon.com",
        "checkip.amazonaws.com",
        "mydb.abc123.eu-west-1.rds.amazonaws.com",
        "0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "abc123.execute-api.eu-west-1.amazonaws.com",
        "my-lb-123.eu-west-1.elb.amazonaws.com",
        "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
        "search-x-y.eu-west-1.es.amazonaws.com",
        "git-codecommit.eu-west-1.amazonaws.com",
        "some-bucket.s3-website-eu-west-1.amazonaws.com",
        "abc.credentials.iot.eu-west-1.amazonaws.com",
        "s3-gw-123.us-east-1.elb.amazonaws.com",
        "s3.abc123.us-east-1.rds.amazonaws.com",
        "s3-dom-123456789012.d.codeartifact.us-east-1.amazonaws.com",
        "ip-ranges.amazonaws.com",
        "abc.eks-cluster.us-east-1.api.aws",
    ],
)
def test_servers_of_others_are_not(host):
    """Hosts of others, and those in AWS's domains that are servers of customers."""
    assert not is_intercepted(host.lower())


def test_certificates_are_for_opened_domains_only():
    """The authority may certify the domains of all that is opened, and no others."""
    domains = set(intercepted_domains())
    assert {"amazonaws.com", "amazonaws.com.cn", "api.aws"} <= domains
    assert not domains & {"amazon.com", "aws", "com", "cn"}
    for _, host in APIS:
        assert any(host.endswith(f".{domain}") for domain in domains)
