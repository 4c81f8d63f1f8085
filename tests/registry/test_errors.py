from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue.exceptions import ApiQueueError, LimitsError
from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue.registry.spi import unknown_service
from tests.helpers import introspect
from tests.helpers.models import INSTALLED, OLDER, UNLISTED
from tests.helpers.operations_file import COMMAND

DOC = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```toml.*?\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)


def problems_of(text):
    """Return what is wrong with a file."""
    with pytest.raises(LimitsError) as caught:
        Registry.parse(text)
    return list(caught.value.problems)


# One message a problem


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ('[ec3]\nrate = "1/s"', "line 1: ec3",
         "there is no AWS service 'ec3': did you mean 'ec2', 'ecr' or"),
        ('[autoscalling]\nrate = "1/s"', "line 1: autoscalling", "did you mean 'autoscaling'?"),
        ('[auto-scaling]\nrate = "1/s"', "line 1: auto-scaling", "did you mean 'autoscaling'?"),
        ('[elasticloadbalancing]\nrate = "1/s"', "line 1: elasticloadbalancing", "no AWS service"),
        ('presets = "aws"', "line 1: presets",
         "neither a key nor an AWS service: did you mean 'preset'?"),
        ('rate = "9/s"', "line 1: rate",
         "write this in the table of a service, such as [ec2], or in [default]"),
        ("concurrency = 5", "line 1: concurrency", "write this in the table of a service"),
        ("adaptive = true", "line 1: adaptive", "write this in the table of a service"),
        ('[lanes]\nRunInstances = "1/s"', "line 1: lanes", "write this in the table of a service"),
        ('order = "fair"', "line 1: order", "write this in the table of a service"),
        ("scope = []", "line 1: scope", "write this in the table of a service"),
        ('[buckets.a]\nrate = "1/s"', "line 1: buckets", "write this in the table of a service"),
        ('[quotas]\nRunInstances = "1/s"', "line 1: quotas", "such as [ec2]"),
        ('s3 = "9/s"\ndefaults = "9/s"', "line 2: defaults", "did you mean 'default'?"),
        ('["EC 2"]\nrate = "1/s"', "line 1: 'EC 2'", "did you mean 'ec2'?"),
        ('[xyzzy-plugh]\nrate = "1/s"', "line 1: xyzzy-plugh", "or check = false in limits.toml"),
        ('[ec2]\nrat = "1/s"', "line 2: ec2.rat", "unknown key 'rat': did you mean 'rate'?"),
        ('[ec2]\nrate = "1/s"\nq = 1', "line 3: ec2.q", "the keys here are rate, burst, window"),
        ('[ec2]\nrate = "fast"', "line 2: ec2.rate", "'fast' is not a limit: write one such as"),
        ("ec2 = -3", "line 1: ec2", "a limit must be above 0, not -3"),
        ('[ec2]\nrate = "0/s"', "line 2: ec2.rate", "'0/s' is not a limit"),
        ('[ec2]\nrate = "1/s burst 0"', "line 2: ec2.rate", "'1/s burst 0' is not a limit"),
        ('[ec2]\nrate = "0.5 in any 1s"', "line 2: ec2.rate", "'0.5 in any 1s' is not a limit"),
        ('[ec2]\nrate = "1/s,"', "line 2: ec2.rate", "'1/s,' is not a limit"),
        ('[ec2]\nrate = "1,000/s"', "line 2: ec2.rate", "write 1000, not '1,000'"),
        ('[ec2]\nrate = "10/fortnight"', "line 2: ec2.rate", "'fortnight' is not a unit of time"),
        ('[ec2]\nrate = "5 tokens/s"', "line 2: ec2.rate",
         "count calls, not tokens: put this limit into a bucket"),
        ('ec2 = "5 tokens/s"', "line 1: ec2",
         "count calls, not tokens: put this limit into a bucket"),
        ('[ec2]\nrate = "9/s"\nlanes = {"*" = "5 tokens in any 1h"}', "line 3: ec2.lanes.'*'",
         "count calls, not tokens: put this limit into a bucket"),
        ('[ec2]\nwindow = "5 tokens/s"', "line 2: ec2.window",
         "count calls, not tokens: put this limit into a bucket"),
        ('[ec2]\npreset = "aws"\nquotas = {CreateTags = "5 tags/s"}',
         "line 3: ec2.quotas.CreateTags", "count calls, not tags: put this limit into a bucket"),
        ('[ec2]\npreset = "aws"\nquotas = {CreateTags = "5/s or raise"}',
         "line 3: ec2.quotas.CreateTags", 'write the quota without "or raise"'),
        ('[ec2.buckets.a]\noperations = ["RunInstances"]\nrate = "5 tokens/s"',
         "line 1: ec2.buckets.a", "the cost in tokens is missing: write the parameter to count"),
        ('[ec2]\nbuckets.a = {operations = ["RunInstances"], rate = "1 a/s, 1 b/s", cost = {}}',
         "line 2: ec2.buckets.a", "one unit, not a and b: write two"),
        ('[ec2.buckets.a]\noperations = ["RunInstances"]\nrate = "5 tokens/s"\neach = true',
         "line 1: ec2.buckets.a",
         "with each = true counts calls, not tokens: write a bucket for each operation instead"),
        ('[ec2]\nrate = "15 in each week"', "line 2: ec2.rate", 'in each day" or "in each month'),
        ('[ec2]\nwindow = "5/s burst 2"', "line 2: ec2.window", "'5/s burst 2' is not a window"),
        ("[ec2]\nrate = 100", "line 2: ec2.rate", 'a bare 100 is ambiguous: write "100/s"'),
        ("[ec2]\nrate = true", "line 2: ec2.rate", "True is not a limit"),
        ("[ec2]\nrate = 2026-11-24", "line 2: ec2.rate", "is not a limit"),
        ("ec2 = 100", "line 1: ec2", 'a bare 100 is ambiguous: write "100/s"'),
        ('[ec2]\nrate = ["1/s", "x"]', "line 2: ec2.rate[1]", "'x' is not a limit"),
        ('[ec2]\nrate = ["1/s", ["1/s"]]', "line 2: ec2.rate[1]", "a list within a list"),
        ('[ec2]\nrate = ["1/s", "unlimited"]', "line 2: ec2.rate[1]",
         '"unlimited" cannot be combined with others'),
        ('[ec2]\nrate = {per = "1/s"}', "line 2: ec2.rate.per", "unknown key 'per'"),
        ("[ec2]\nrate = {}", "line 2: ec2.rate", "no limit is given"),
        ("ec2 = []", "line 1: ec2", 'an empty list is not a limit: write "unlimited" for none'),
        ("[ec2]\nrate = []", "line 2: ec2.rate", "an empty list is not a limit"),
        ('[ec2]\nrate = "1/s"\nlanes.RunInstances = []', "line 3: ec2.lanes.RunInstances",
         "an empty list is not a limit"),
        ("[ec2]", "line 1: ec2", "no limit is given"),
        ("[ec2]\nscope = []", "line 1: ec2", "no limit is given"),
        ('[ec2]\nwindow = "0.5/s"', "line 2: ec2.window", "'0.5/s' is not a window"),
        ("[ec2]\nwindow = 5", "line 2: ec2.window", "5 is not a window"),
        ('[ec2]\nrate = "1/s"\nburst = 0.5', "line 3: ec2.burst", "0.5 is not a burst"),
        ('[ec2]\nrate = "1/s"\nburst = nan', "line 3: ec2.burst", "nan is not a burst"),
        ('[ec2]\nrate = ["1/s", "2/s"]\nburst = 5', "line 3: ec2.burst",
         "burst needs a single rate without a"),
        ('[ec2]\nrate = "1/s burst 4"\nburst = 5', "line 3: ec2.burst",
         "burst needs a single rate without a"),
        ('[ec2]\nrate = "unlimited"\nburst = 5', "line 3: ec2.burst",
         "burst needs a single rate without a"),
        ("[ec2]\nburst = 5", "line 2: ec2.burst", "burst needs a single rate without a"),
        ('[ec2]\nrate = "1/s"\nconcurrency = 0', "line 3: ec2.concurrency",
         "0 is not a number of calls"),
        ('[ec2]\nrate = "1/s"\nconcurrency = true', "line 3: ec2.concurrency",
         "True is not a number of calls"),
        ('[ec2]\nrate = "1/s"\nconcurrency = 1.5', "line 3: ec2.concurrency",
         "1.5 is not a number of calls"),
        ('[ec2]\nrate = "1/s"\norder = "last"', "line 3: ec2.order",
         "'last' is not an order: write"),
        ('[ec2]\nrate = "1/s"\norder = []', "line 3: ec2.order", "[] is not an order"),
        ('[ec2]\nrate = "1/s"\nweights = {Run = 3}', "line 3: ec2.weights",
         'weights are shares of turns: write order = "fair", too'),
        ('[ec2]\nrate = "1/s"\norder = "fair"\nweights = {Run = -1}', "line 4: ec2.weights.Run",
         "weights['Run'] must be finite and above 0, not -1"),
        ('[ec2]\nrate = "1/s"\ncheck = 0', "line 3: ec2.check", "0 is not true or false"),
        ('[ec2]\nrate = "1/s"\nscope = "account"', "line 3: ec2.scope", "'account' is not a scope"),
        ('[ec2]\nrate = "1/s"\nscope = ["zone"]', "line 3: ec2.scope", "['zone'] is not a scope"),
        ('[ec2]\nrate = "1/s"\nscope = ["region", "region"]', "line 3: ec2.scope",
         "is not a scope"),
        ('[ec2]\nrate = "1/s"\nadaptive = 1', "line 3: ec2.adaptive", 'table such as {floor = "1'),
        ('[ec2]\nrate = "1/s"\nadaptive = {flor = 1}', "line 3: ec2.adaptive.flor", "'floor'?"),
        ('[ec2]\nrate = "1/s"\nadaptive = {backoff = 2}', "line 3: ec2.adaptive.backoff",
         "below 1"),
        ('[ec2]\nrate = "1/s"\nadaptive = {floor = 1}', "line 3: ec2.adaptive.floor",
         "a bare 1 is ambiguous"),
        ('[ec2]\nrate = "1/s"\nadaptive = {floor = "9/s"}', "line 3: ec2.adaptive",
         "the adaptive floor, 9/s, is above the limits (1/s): lower it"),
        ('[ec2]\nrate = "1/s"\nconcurrency = 3\nadaptive = {concurrency = 5}',
         "line 4: ec2.adaptive", "the adaptive concurrency, 5, is above the queue's (3)"),
        ('[ec2]\nrate = "1/s"\nadaptive = {floor = "9 tokens/s"}', "line 3: ec2.adaptive",
         "the adaptive floor, 9 tokens/s, counts tokens, but the limits count calls: write"),
        ('[ec2.lanes]\nRunInstances = "1/s"', "line 1: ec2", 'or rate = "unlimited" for none'),
        ('[ec2]\nlanes = {"*" = "1/s"}', "line 1: ec2", "no limit for the service as a whole"),
        ('[ec2]\nrate = "1/s"\nlanes = "1/s"', "line 3: ec2.lanes", "'1/s' is not a table"),
        ('[ec2]\nrate = "1/s"\nlanes = {RunInstances = "x"}', "line 3: ec2.lanes.RunInstances",
         "'x' is not a limit"),
        ('[ec2]\nrate = "1/s"\n[ec2.lanes]\nRunInstance = "1/s"', "line 4: ec2.lanes.RunInstance",
         "ec2 has no operation 'RunInstance': did you mean 'RunInstances'?"),
        ('[ec2]\nrate = "1/s"\n[ec2.lanes]\nrun_instances = "1/s"',
         "line 4: ec2.lanes.run_instances", "did you mean 'RunInstances'?"),
        ('[default]\nrate = "1/s"\n[default.lanes]\nRunInstances = "1/s"',
         "line 4: default.lanes.RunInstances", 'default accepts only "*": limit'),
        ('sms-voice = "1/s"\npinpoint-sms-voice = "1/s"', "line 2: pinpoint-sms-voice",
         "'sms-voice' is the same service"),
    ],
)  # fmt: skip
def test_problem_has_place_and_remedy(text, where, says):
    """One message: file, line, key, the value that was found, and what to write instead."""
    (problem,) = problems_of(text)
    assert problem.startswith(f"limits.toml, {where}: ")
    assert says in problem


def test_problems_come_together_in_order():
    """A line each, and the error's text is these lines."""
    text = (
        '[ec2]\nrat = "1/s"\norder = "last"\n[sts]\nrate = 5\n[iam]\nrate = "x"\n[ec3]\nrate="1/s"'
    )
    problems = problems_of(text)
    assert [problem.split(":")[0] for problem in problems] == [
        f"limits.toml, line {line}" for line in (2, 3, 5, 7, 8)
    ]
    with pytest.raises(LimitsError) as caught:
        Registry.parse(text)
    assert str(caught.value).splitlines() == problems


def test_each_mistake_in_adaptive_is_reported():
    """With its key, beside keys that are unknown."""
    problems = problems_of(
        '[ec2]\nrate = "1/s"\nadaptive = {floor = "x", backof = 1, backoff = 2, recovery = "1m"}'
    )
    assert [problem.split(":")[1] for problem in problems] == [
        f" ec2.adaptive.{key}" for key in ("backof", "floor", "backoff", "recovery")
    ]


def test_error_is_a_picklable_value_error():
    """It is caught as ApiQueueError and as ValueError, and survives pickling."""
    with pytest.raises(ApiQueueError) as caught:
        Registry.parse("[ec2]\n[ec3]")
    assert isinstance(caught.value, ValueError)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert copy.problems == caught.value.problems
    assert len(copy.problems) > 1
    assert str(copy) == str(caught.value)


def test_code_gets_the_same_messages():
    """`Registry` and `ServiceLimits` say what is wrong as a file does, without lines."""
    with pytest.raises(LimitsError) as caught:
        Registry({"ec3": "1/s", "ec2": ["1/s", 5]}, default={"rate": "1/s", "order": "last"})
    assert [problem.split(": ")[:2] for problem in caught.value.problems] == [
        ["Registry", "ec3"],
        ["Registry", "ec2[1]"],
        ["Registry", "default.order"],
    ]
    with pytest.raises(LimitsError) as caught:
        ServiceLimits("fast", lanes={"X": 5}, scope="region", concurrency=0, order="last", check=1)
    assert [problem.split(": ")[:2] for problem in caught.value.problems] == [
        ["ServiceLimits", key]
        for key in ("rate", "lanes.X", "scope", "concurrency", "order", "check")
    ]


def test_empty_list_in_code_is_unlimited():
    """A program may collect limits and find none; in a file, such a list is a mistake."""
    registry = Registry({"ec2": [], "iam": {"rate": []}, "s3": ServiceLimits([])})
    assert {limits.rate for limits in registry.services.values()} == {()}


# Files


def test_file_is_named_as_given(tmp_path):
    """The messages start with the path; a byte order mark and Windows line ends do no harm."""
    path = tmp_path / "my limits.toml"
    path.write_bytes(b'\xef\xbb\xbf[ec2]\r\nrate = "10/s"\r\n')
    assert next(iter(Registry.load(path))).source == f"{path}, line 2"
    path.write_bytes(b'[ec2]\r\n\r\nrate = "x"\r\n')
    with pytest.raises(LimitsError) as caught:
        Registry.load(str(path))
    assert str(caught.value).startswith(f"{path}, line 3: ec2.rate: 'x' is not a limit")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: None, "No such file or directory; give the path of a limits.toml"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"# \xff\n"), "save it as UTF-8"),
        (lambda path: path.write_text("share = 30%\n"), 'line 1.*; text needs quotes: write "30%"'),
        (lambda path: path.write_text("# 9\nec2 = 10/s # 1"), 'line 2.*quotes: write "10/s"$'),
        (lambda path: path.write_text("ec2 = unlimited"), 'quotes: write "unlimited"$'),
        (lambda path: path.write_text("a = {b = 5, c = 5 per 2s}"), 'quotes: write "5 per 2s"$'),
        (lambda path: path.write_text("[ec2\n"), "invalid TOML: .*line 1"),
        (lambda path: path.write_text("[ec2]\n[ec2]\n"), "invalid TOML: .*line 2"),
        (lambda path: path.write_text("a = " + "[" * 100_000), "nested too deeply"),
    ],
)
def test_unreadable_file_is_one_problem(tmp_path, make, says):
    """It may be missing, a directory, of another encoding, or no TOML: the message says which."""
    path = tmp_path / "limits.toml"
    make(path)
    with pytest.raises(LimitsError, match=says) as caught:
        Registry.load(path)
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value)


def test_impossible_path_is_named():
    """Even one with a null character gives a LimitsError."""
    with pytest.raises(LimitsError, match="cannot be read"):
        Registry.load("a\0b")


# Lines


statements = st.sampled_from(
    ["{} = 1", '{} = "#"', "{} = [\n  1, # ]\n\n 2]", '{} = """\n[not.a.table]\nx = 1\n"""',
     "{} = '''\na = \"\"\"\n'''", "{} = {{ inner = 1 }}", '{} = {{ inner = """\n\n""" }}']
)  # fmt: skip
noise = st.sampled_from(["", "# [x]", "  ", "\t# a = 1"])


@given(
    st.lists(st.tuples(noise, st.lists(st.tuples(noise, statements), max_size=4)), max_size=4),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_are_those_of_statements(tables, newline):
    """Whatever strings and lists over several lines look like, each key is on its own line."""
    lines, expected = [], {}
    for number, (before, keys) in enumerate(tables):
        lines += [before, f"[t{number}]"]
        expected[f"t{number}",] = len(lines)
        for index, (gap, statement) in enumerate(keys):
            lines.append(gap)
            expected[f"t{number}", f"k{index}"] = len(lines) + 1
            if "inner" in statement:
                expected[f"t{number}", f"k{index}", "inner"] = len(lines) + 1
            lines += statement.format(f"k{index}").split("\n")
    assert introspect.lines_of_keys(newline.join(lines)) == expected


def test_dotted_keys_and_headers_have_lines():
    """A key above another is on the line that names it first."""
    assert introspect.lines_of_keys(
        'ec2.rate = "1/s"\n[iam.lanes]\n"*" = "1/s"\n[[x.y]]\nz.a = 1'
    ) == {
        ("ec2",): 1,
        ("ec2", "rate"): 1,
        ("iam",): 2,
        ("iam", "lanes"): 2,
        ("iam", "lanes", "*"): 3,
        ("x",): 4,
        ("x", "y"): 4,
        ("x", "y", "z"): 5,
        ("x", "y", "z", "a"): 5,
    }


@pytest.mark.parametrize(
    ("long", "line"), [("#\n" * 5001, 5003), ("[sts]\nrate = [" + "\n" * 202 + "]\n", 206)]
)
def test_long_files_have_lines(long, line):
    """In a file of 5,000 lines, or after a statement of 200, problems have their line, too."""
    (*_, problem) = problems_of(f"{long}[ec2]\nrate = 'x'")
    assert problem.startswith(f"limits.toml, line {line}: ec2.rate: ")


def test_lines_are_found_in_linear_time():
    """A statement of eight times as many lines takes about eight times as long, not sixty-four."""
    times = []
    for count in (1000, 8000):
        text = "[ec2]\nrate = [\n" + "'1/s',  # ]\n" * count + "]\nburst = 1\n"
        rounds = []
        for _ in range(5):
            began = time.process_time()
            assert introspect.lines_of_keys(text)["ec2", "burst"] == count + 4
            rounds.append(time.process_time() - began)
        times.append(min(rounds))
    assert times[1] < 24 * times[0]


# Names


def test_services_cover_the_installed_botocore():
    """Each service that it knows is in the list. If not: the message says what to run.

    One that AWS has closed need not be: an older botocore that still has it is asked, too.
    """
    assert OLDER or not UNLISTED, f"`{COMMAND}` writes the list: it lacks {UNLISTED}"
    assert not [name for name in INSTALLED if unknown_service(name) is not None]


def python(code, **env):
    """Run a program; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
def test_botocore_is_not_needed():
    """Without it, services and operations are looked up in the lists of this package."""
    out = python(
        "import sys; sys.modules['botocore'] = None\n"
        "from aioapiqueue.registry import Registry, LimitsError\n"
        'text = \'[ec2]\\nrate = "1/s"\\nlanes = {RunInstances = "1/s"}\'\n'
        "print(Registry.parse(text))\n"
        "try: Registry.parse('ec3 = \"1/s\"')\n"
        "except LimitsError as error: print(error)\n"
    )
    assert out.startswith(
        "<Registry of ec2: 0 queues>\nlimits.toml, line 1: ec3: there is no AWS service"
    )
    out = python(
        "import sys\n"
        "from aioapiqueue.registry import Registry\n"
        "Registry.parse('ec2 = \"1/s\"').find_call('ec2', 'X')\n"
        "print('botocore' in sys.modules)\n"
    )
    assert out == "False\n"


@pytest.mark.real
def test_newer_botocore_services_are_known(tmp_path):
    """A service of a botocore newer than the list needs no `check = false`."""
    pytest.importorskip("botocore")
    model = tmp_path / ".aws" / "models" / "brandnew" / "2026-11-24" / "service-2.json"
    model.parent.mkdir(parents=True)
    model.write_text(json.dumps({"operations": {"MakeThing": {}}}))
    out = python(
        "from aioapiqueue.registry import Registry, LimitsError\n"
        'text = \'[brandnew]\\nrate = "1/s"\\n[brandnew.lanes]\\nMakeThing = "1/s"\'\n'
        "print(Registry.parse(text))\n"
        "try: Registry.parse(text.replace('MakeThing', 'MakeThings'))\n"
        "except LimitsError as error: print(error)\n",
        HOME=str(tmp_path),
    )
    assert out.startswith("<Registry of brandnew: 0 queues>\n")
    assert "brandnew has no operation 'MakeThings': did you mean 'MakeThing'?" in out


def test_names_may_be_vouched_for():
    """`check = false` takes a service's name and its operations' as they are."""
    text = '[brand-new]\nrate = "1/s"\nlanes = {DoIt = "1/s"}\n'
    assert len(problems_of(text)) == 1
    assert "DoIt" in Registry.parse(f"{text}check = false").services["brand-new"].lanes


# Whatever the text


def outcome(read, what):
    """Return a Registry, or the problems of a LimitsError, each on one line."""
    try:
        return read(what), []
    except LimitsError as error:
        problems = error.problems
    assert problems
    assert all(len(problem.splitlines()) == 1 for problem in problems)
    return None, problems


def check(text):
    """Fail if a file gives anything but a Registry that works, or problems with their source."""
    registry, problems = outcome(Registry.parse, text)
    for one in registry or ():
        call = registry.find_call(one.service, one.operation or "X")
        assert call is not None or one.bucket or not one.limits
    assert all(re.match(r"limits\.toml(, line \d+)?: \S", problem) for problem in problems)


keys = st.sampled_from(
    ["ec2", "sts", "default", "ec3", "lanes", "rate", "burst", "window", "scope", "order",
     "concurrency", "adaptive", "check", "floor", "backoff", "*", "GetCallerIdentity", "", "a\nb"]
)  # fmt: skip
values = st.recursive(
    st.sampled_from(["1/s", "unlimited", "1/s burst 5", "5 in any 1h", "fair", "account", "9" * 99])
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def toml(value):
    """Return a value as TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "")


tables_of_any = st.dictionaries(keys, values | st.dictionaries(keys, values), max_size=4)


def check_tables(tables):
    """Check what a file with these tables gives."""
    check("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in tables.items()))


@settings(max_examples=50)
@given(tables_of_any)
def test_any_tables_load_or_are_refused(tables):
    """Known and unknown words in any place: never another exception, one line a problem."""
    check_tables(tables)


@pytest.mark.slow  # twice as many
@given(tables_of_any)
def test_more_tables_load_or_are_refused(tables):
    """The same of as many examples as other properties have."""
    check_tables(tables)


@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9), st.text(max_size=9)), max_size=3),
)
def test_any_typo_loads_or_is_refused(text, slips):
    """An example of the document with something cut out and something put in."""
    for at, cut, put in slips:
        text = text[:at] + put + text[at + cut :]
    check(text)


@given(st.text())
def test_any_text_loads_or_is_refused(text):
    """Whatever a file holds."""
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        "ec2." + ".".join("a" * 3000) + " = 1",
        "[ec2]\nrate = 0x" + "f" * 10_000,
        "[ec2]\nrate = '" + "9" * 10_000 + "/s'",
        "[ec2]\nrate = '1/s burst " + "9" * 10_000 + "'",
        "[ec2]\nrate = '1/s'\nconcurrency = 0x" + "f" * 10_000,
        "[ec2]\nrate = '1/s'\nburst = 0x" + "f" * 10_000,
        "[ec2]\nrate = '1/s'\nadaptive = {backoff = 0x" + "f" * 10_000 + "}",
        "[ec2]\nrate = '1/s'\nadaptive.floor." + ".".join("a" * 3000) + " = 1",
        "[ec2]\nrate = [{x." + ".".join("a" * 3000) + " = 1}]",
        "[ec2]\nrate = '1/s'\nscope = [{x." + ".".join("a" * 3000) + " = 1}, "
        "{x." + ".".join("a" * 3000) + " = 1}]",
        "ec2.rate" + ".rate" * 3000 + " = 1",
        "ec2 = " + "[{rate = " * 50 + "'1/s'" + "}]" * 50,
        "[ec2]\nrate = 1" + "0" * 5000,
        "'" + "x" * 10_000 + "' = '1/s'",
        "[ec2]\nrate = '1/s'\n[ec2.lanes]\n'" + "x" * 10_000 + "' = 5",
        "ec2 = " + "[" * 90 + "]" * 90,
        "[ec2]\nrate = '1/" + "0" * 400 + "1s'",
        "[ec2]\nrate = '0." + "0" * 50 + "1 per 9s'",
        "[ec2]\nrate = '" + "1/s, " * 10_000 + "1/s'",
    ],
)
def test_huge_values_give_a_short_message(text):
    """However long a name, number or nesting, a problem takes a line of reasonable length."""
    _, problems = outcome(Registry.parse, text)
    assert all(len(problem) < 800 for problem in problems)


@given(st.lists(st.text() | st.from_regex(r"(ec2|default|s3\.\*)=.{0,9}", fullmatch=True)))
def test_any_options_load_or_are_refused(options):
    """Whatever is given with --limit."""
    _, problems = outcome(Registry.from_options, options)
    assert all(problem.startswith("--limit ") for problem in problems)
