"""The names of AWS's operations that are part of this package, and what they are needed for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aioapiqueue.registry import LimitsError, Registry, ServiceLimits
from aioapiqueue.registry.spi import canonical, unknown_operation, unknown_service
from tests.helpers import operations_file
from tests.helpers.models import NAMES, OLDER
from tests.helpers.operations_file import Service, header, listed, services_of

UNKNOWN = (
    "ec2 has no operation 'DescribeSnapshotAttribut': did you mean 'DescribeSnapshotAttribute'?"
)


@pytest.mark.usefixtures("no_collector")
def test_list_is_what_botocore_has():
    """Each name that the botocore of uv.lock has is in the list, and no other one.

    An older one has some that AWS has closed since: these are known from itself.
    """
    installed = services_of()
    if OLDER:
        every = [
            (service, name) for service, known in installed.items() for name in known.operations
        ]
        assert not [one for one in every if unknown_operation(*one) is not None]
        return
    ours = listed(newer=False)
    why = f"`{operations_file.COMMAND}` writes it, as botocore {operations_file.version_of()} has"
    assert ours.keys() == installed.keys(), f"{why} other services"
    different = {
        service: sorted(known.operations ^ set(ours[service].operations))
        for service, known in installed.items()
        if known.operations != set(ours[service].operations)
    }
    assert not different, f"{why} other operations: {different}"
    ids = {service: one.id for service, one in installed.items() if one.id != ours[service].id}
    assert not ids, f"{why} other ids: {ids}"


def test_list_is_in_order():
    """Each name is there once, those of the newer botocore only where the other has none."""
    known, newer = listed(newer=False), listed(newer=True)
    for found in (known, newer):
        assert list(found) == sorted(found)
        assert all(ops == sorted(set(ops)) for _, ops in found.values())
    for service, (id_, operations) in newer.items():
        older = known.get(service)
        assert older is None or (older.id == id_ and not {*operations} & {*older.operations})
        assert unknown_service(service) is None
        assert not any(unknown_operation(service, one) for one in operations)


def test_file_is_read_as_it_is_written(tmp_path, monkeypatch):
    """The entries and the versions; the day is the file's while the newest version stays."""
    names = {f"Operation{number}" for number in range(40)}
    locked = {"a-b": Service("c", names), "old": Service("old", {"One"})}
    newest = {"a-b": Service("c", names | {"New"}), "new": Service("new", {"One"})}
    written = "\n".join(operations_file.entries(locked, newest))
    assert max(map(len, written.splitlines())) <= 100 < len(written)
    monkeypatch.setattr(operations_file, "FILE", tmp_path / "operations.txt")
    about = {"command": "run", "locked": "1.2.3", "newest": "1.10.0", "read": "2026-01-02"}
    operations_file.FILE.write_text(operations_file.TEXT.format(**about, entries=written))
    assert header() == ("1.2.3", "1.10.0", "2026-01-02")
    assert listed(newer=False) == {"a-b": ("c", sorted(names)), "old": ("old", ["One"])}
    assert listed(newer=True) == {"a-b": ("c", ["New"]), "new": ("new", ["One"])}
    assert operations_file.day_of("1.10.0") == "2026-01-02" < operations_file.day_of("1.10.1")


def test_no_service_id_hides_a_service():
    """Two names of one service are the only ones that one name stands for."""
    services = {**listed(newer=True), **listed(newer=False)}
    differ = [(one.id, name) for name, one in services.items() if one.id != name]
    ids = dict(differ)
    assert len(ids) == len(differ)
    assert ids.keys() & NAMES == {"pinpoint-sms-voice"}
    assert "default" not in NAMES
    assert {one: canonical(one) for one in {*NAMES, *ids} if canonical(one) != one} == {
        **{id_: name for id_, name in ids.items() if id_ != "pinpoint-sms-voice"},
        "sms-voice": "pinpoint-sms-voice",
    }


def test_code_gets_the_same_check():
    """A `Registry` of code looks operations up, unless its limits switch it off."""
    with pytest.raises(LimitsError) as caught:
        Registry({"ec2": ServiceLimits("1/s", lanes={"DescribeSnapshotAttribut": "1/s"})})
    assert caught.value.problems[0].startswith(
        f"Registry: ec2.lanes.DescribeSnapshotAttribut: {UNKNOWN}"
    )
    assert caught.value.problems[0].endswith(", use check=False in its ServiceLimits)")
    lanes = {"DescribeSnapshotAttribut": "1/s"}
    assert Registry({"ec2": ServiceLimits("1/s", lanes=lanes, check=False)})


def test_file_may_turn_checks_off():
    """`check = false` at the top holds for each service whose table does not say otherwise."""
    text = '[ec3]\nrate = "1/s"\n[sts]\nrate = "1/s"\nlanes = {DoIt = "1/s"}\n'
    assert Registry.parse(f"check = false\n{text}")
    with pytest.raises(LimitsError) as caught:
        Registry.parse(f"check = false\n{text}check = true")
    (problem,) = caught.value.problems
    assert problem.startswith("limits.toml, line 6: sts.lanes.DoIt: sts has no operation 'DoIt'")
    assert Registry.parse(f"{text}check = true", check=False)
    with pytest.raises(LimitsError, match="line 1: check: 1 is not true or false"):
        Registry.parse("check = 1")


def test_option_follows_its_services_check():
    """The check of a table holds for a --limit of the same service."""
    base = Registry.parse('[ec2]\nrate = "1/s"\ncheck = false')
    options = ["ec2.DescribeSnapshotAttribut=5/s"]
    assert Registry.from_options(options, base=base)
    with pytest.raises(LimitsError, match="did you mean 'DescribeSnapshotAttribute'"):
        Registry.from_options(options)
    assert Registry.from_options(options, check=False)


@pytest.mark.parametrize("pattern", ["Aa*", "Describz*", "Zz*"])
def test_pattern_has_to_begin_some_name(pattern):
    """Wherever it would stand among the names: before them, between two, or behind them."""
    with pytest.raises(LimitsError, match=f"ec2 has no operation '{pattern[:-1]}"):
        Registry.from_options([f"ec2.{pattern}=1/s"])
    assert Registry.from_options(["ec2.A*=1/s", "ec2.Describe*=1/s", "ec2.W*=1/s"])


@pytest.mark.real
def test_names_are_loaded_when_needed():
    """The import does not read the list, which is read once; botocore is not loaded for a name."""
    code = (
        "import sys\nread = []\n"
        "def note(event, details):\n"
        "    if event == 'open' and str(details[0]).endswith('operations.txt'):\n"
        "        read.append(details[0])\n"
        "sys.addaudithook(note)\n"
        "from aioapiqueue import Registry\nprint(len(read))\n"
        "Registry.parse('ec2 = \"1/s\"')\n"
        "Registry.from_options(['ec2.RunInstances=1/s'])\n"
        "print(len(read), 'botocore' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "0\n1 False\n"
