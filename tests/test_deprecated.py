"""Names of the first edition: each still works for one release, and warns with its new name."""

from __future__ import annotations

import pytest

from aioapiqueue import Rate, hub, registry
from aioapiqueue.hub import CallStats
from aioapiqueue.registry import Bucket, PublishedLimit, Registry, parameter_counts

OLD_FIELDS = [("unless", "unless_params"), ("each", "per_operation"), ("joint", "shared_with")]
VALUES = {"unless_params": ("Filters",), "per_operation": True, "shared_with": "apigatewayv2"}


@pytest.mark.parametrize(
    ("module", "old", "now"),
    [
        (hub, "Figure", CallStats),
        (registry, "Figure", PublishedLimit),
        (registry, "facts", parameter_counts),
    ],
)
def test_modules_have_old_names(module, old, now):
    """What a module exported by another name is still there, but not in `__all__`."""
    with pytest.warns(DeprecationWarning, match=f"{old} is now named {now.__name__}"):
        assert getattr(module, old) is now
    assert old not in module.__all__
    with pytest.raises(AttributeError, match=f"no attribute '{old}s'"):
        getattr(module, f"{old}s")


@pytest.mark.parametrize(("old", "now"), OLD_FIELDS)
def test_buckets_have_old_fields(old, now):
    """A bucket's fields are read, and given, by their old names as well."""
    bucket = Bucket(("ListKeys",), (Rate(1),), **{now: VALUES[now]})
    with pytest.warns(DeprecationWarning, match=f"this attribute is now Bucket.{now}$"):
        assert getattr(bucket, old) == VALUES[now]
    with pytest.warns(DeprecationWarning, match=rf"Bucket\({old}=\.\.\.\) is now {now}=$"):
        assert Bucket(("ListKeys",), (Rate(1),), **{old: VALUES[now]}) == bucket


@pytest.mark.parametrize(
    ("old", "now"), [("unless", "unless_params"), ("kept", "enforceable"), ("joint", "shared_with")]
)
def test_published_limits_have_old_fields(old, now):
    """So are the fields of what AWS publishes read."""
    limit = next(iter(Registry.parse('preset = "aws"'))).figure
    with pytest.warns(DeprecationWarning, match=f"this attribute is now PublishedLimit.{now}$"):
        assert getattr(limit, old) == getattr(limit, now)


def test_find_with_an_operation():
    """`Registry.find` needed no operation, and warns of one."""
    found = Registry({"ec2": "10/s"})
    with pytest.warns(
        DeprecationWarning,
        match=r"the argument operation of Registry.find\(\) is deprecated: leave it out",
    ):
        assert found.find("ec2", "DescribeSnapshots") is found.find("ec2")
