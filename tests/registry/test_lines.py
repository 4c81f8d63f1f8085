"""Every problem of a limits.toml names the line that has to be changed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry

BUCKET = '[ec2.buckets.a]\nrate = "1/s"\n'
JOINT = 'preset = "aws"\n[apigateway]\nlanes = {GetTags = "1/h"}\n[apigatewayv2]\n'
MISTAKES = [
    # Names, at any depth.
    '[ec3] # here\nrate = "1/s"',
    'presets = "aws" # here',
    'rate = "1/s" # here',
    '[lanes] # here\nRunInstances = "1/s"',
    '["my host.test"] # here\nrate = "1/s"',
    '[aws.ec2] # here\nrate = "1/s"',
    '[host."a.test"] # here\nrate = "1/s"',
    '["a.test"] # here\nrate = "1/s"',
    'sms-voice = "1/s"\npinpoint-sms-voice = "1/s" # here',
    '[ec2]\nrate = "1/s"\nrat = 1 # here',
    '[ec2]\nrate = "1/s"\n[ec2.lanes]\nRunInstance = "1/s" # here',
    '[ec2]\nrate = "1/s"\nlanes."RunInstances x" = "1/s" # here',
    '[default]\nrate = "1/s"\n[default.lanes]\nRunInstances = "1/s" # here',
    '[ec2]\nrate = "1/s"\ncheck = false\nlanes."*Images" = "1/s" # here',
    '[ec2]\nrate = "1/s"\norder = "fair"\nweights."Run*s" = 3 # here',
    '[ec2.buckets.a]\nrate = "1/s"\noperations = ["List*", "*Keys"] # here',
    '[ec2.buckets.a]\nrate = "1/s"\noperations = ["Run*"]\ncost = {"Run*s" = 3} # here',
    # Limits.
    '[ec2]\nrate = "fast" # here',
    "[ec2]\nrate = 100 # here",
    '[ec2]\nrate = "5 tokens/s" # here',
    '[ec2]\nrate = {per = "1/s"} # here',
    "[ec2]\nrate = {} # here",
    "[ec2]\nrate = [] # here",
    '[ec2]\nrate = ["1/s", ["1/s"]] # here',
    '[ec2]\nrate = ["1/s", "unlimited"] # here',
    "[ec2]\nrate = " + "[{rate = " * 9 + "'1/s'" + "}]" * 9 + " # here",
    '[ec2]\nrate = "1/s"\nburst = 0.5 # here',
    '[ec2]\nrate = "1/s burst 4"\nburst = 5 # here',
    "[ec2]\nwindow = 5 # here",
    "[ec2] # here\nscope = []",
    '[ec2] # here\n[ec2.lanes]\nRunInstances = "1/s"',
    # Other settings.
    '[ec2]\nrate = "1/s"\nconcurrency = 0 # here',
    '[ec2]\nrate = "1/s"\norder = "last" # here',
    '[ec2]\nrate = "1/s"\nweights = {a = 3} # here',
    '[ec2]\nrate = "1/s"\norder = "fair"\nweights = {a = 0} # here',
    '[ec2]\nrate = "1/s"\nscope = ["zone"] # here',
    '[ec2]\nrate = "1/s"\ncheck = 0 # here',
    'check = 0 # here\n[ec2]\nrate = "1/s"',
    '[ec2]\nrate = "1/s"\nlanes = 5 # here',
    '[ec2]\nrate = "1/s"\nadaptive = 1 # here',
    '[ec2]\nrate = "1/s"\nadaptive = {backoff = 2} # here',
    '[ec2]\nrate = "1/s"\n[ec2.adaptive]\nflor = 1 # here',
    '[ec2]\nrate = "1/s"\n[ec2.adaptive]\nrecovery = 5\nbackoff = 2 # here',
    # Found late: when a queue is made of all settings.
    '[ec2]\nrate = "1/s"\nadaptive = {floor = "9/s"} # here',
    JOINT + 'rate = "9/s"\nadaptive = {floor = "1 per 99s"} # here',
    # Presets.
    'share = "50%" # here\n[ec2]\nrate = "1/s"',
    'preset = "awz" # here',
    'preset = "aws"\nshare = 50 # here',
    'preset = "aws"\nshare = "150%" # here',
    '[ec2]\nshare = "50%" # here\nrate = "1/s"',
    '[ec2]\nrate = "1/s"\npreset = "none"\nshare = "50%" # here',
    '[ec2]\nrate = "1/s"\n[ec2.lanes]\nRunInstances = {share = "20%"} # here',
    '[ec2]\nrate = "1/s"\npreset = "none"\n[ec2.lanes]\nRunInstances.share = "20%" # here',
    '[iam] # here\npreset = "aws"',
    '[default]\nrate = "1/s"\npreset = "aws" # here',
    '[sts]\npreset = "aws"\n[sts.quotas]\nGetCallerId = "1/s" # here',
    '[ec2]\npreset = "aws"\nquotas."CreateTags" = "5 tags/s" # here',
    '[ec2]\npreset = "aws"\nquotas."CreateTags" = "5/s or raise" # here',
    '[ec2]\npreset = "aws"\n[ec2.quotas]\n"DescribeVpcs unfiltered" = "1/s" # here',
    '[ec2]\npreset = "aws"\n[ec2.quotas]\n"RunInstances resources" = "1 a/s, 1 b/s" # here',
    'preset = "aws"\n[sts.lanes]\nX = {share = "5%"} # here',
    'preset = "aws"\n[sts.lanes]\nAssumeRole.share = "5" # here',
    'preset = "aws"\n[ec2.lanes]\n"Describe* unfiltered" = "1/s" # here',
    # Buckets.
    "[ec2.buckets]\na = 5 # here",
    '[ec2.buckets]\n"a/b" = {operations = ["RunInstances"], rate = "1/s"} # here',
    '[ec2.buckets.a] # here\noperations = ["RunInstances"]',
    '[ec2.buckets.a] # here\nrate = "1/s"',
    '[ec2.buckets.a] # here\noperations = ["RunInstances"]\nrate = "5 tokens/s"',
    '[ec2.buckets.a] # here\noperations = ["RunInstances"]\nrate = "1 a/s, 1 b/s"\ncost = {}',
    BUCKET + 'operations = "RunInstances" # here',
    BUCKET + 'operations = ["Run"] # here',
    BUCKET + 'operations = ["Run*"] # here\neach = true',
    '[ec2.buckets.a] # here\noperations = ["RunInstances"]\neach = true\nrate = "5 tokens/s"',
    BUCKET + 'each = true\noperations = ["RunInstances"]\ncost = {RunInstances = 2} # here',
    BUCKET + 'operations = ["Run*"]\ncost.RunInstances = "x y" # here',
    BUCKET + 'operations = ["Run*"]\ncost.RunInstances = "MaxCuont" # here',
    BUCKET + 'operations = ["Run*"]\ncost.RunIt = 2 # here',
    BUCKET + 'operations = ["Run*"]\n[ec2.buckets.a.cost]\nCreateTags = 2 # here',
    BUCKET + 'operations = ["Run*"]\nexclude = ["RunIt"] # here',
    BUCKET + 'operations = ["Run*"]\nunless = ["Filtres"] # here',
    # Hosts.
    'hosts = "1/s" # here',
    '[hosts]\ndefault = "1/s" # here',
    '[hosts.api.test] # here\nrate = "1/s"',
    '[hosts]\n"1.1.1.1" = "1/s" # here',
    '[hosts]\n"a.test" = "1/s"\n"A.test" = "1/s" # here',
    '[hosts."a.test"]\nrate = "1/s"\nscope = [] # here',
    '[hosts."a.test"]\nrate = "1/s"\n[hosts."a.test".lanes]\n"search/*" = "1/s" # here',
    '[hosts."a.test"]\nrate = "1/s"\nadaptive = {floor = "9/s"} # here',
]  # fmt: skip


def places_of_problems():
    """Return the places in the registry's source where a problem is added: file, first, last."""
    folder = Path(sys.modules[Registry.__module__].__file__).parent
    return {
        (file.name, node.lineno, node.end_lineno)
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr, getattr(node.func.value, "id", "")) == ("add", "report")
    }


def problems_of(text, **options):
    """Return what is wrong with a file."""
    with pytest.raises(LimitsError) as caught:
        Registry.parse(text, **options)
    return caught.value.problems


@pytest.mark.parametrize("text", MISTAKES)
def test_problem_has_the_line_to_change(text):
    """The only problem is on the line with the mark, however far down the file it is."""
    above = '# limits\n\ncloudtrail = [\n  "1/s",\n] # no problem\n'
    top = text.startswith(("preset", "share", "check", "rate", "hosts ="))
    text = f"{text}\n{above}" if top and "[" not in text else text
    for before in ("",) if top else ("", above):
        whole = before + text
        line = 1 + next(at for at, one in enumerate(whole.split("\n")) if one.endswith("# here"))
        (problem,) = problems_of(whole)
        assert problem.startswith(f"limits.toml, line {line}: ")


def test_every_kind_of_problem_is_planted():
    """The mistakes above reach all places where the registry finds a problem."""
    seen = set()

    def note(frame, event, _):
        called = frame.f_code.co_qualname if event == "call" else ""
        if called == "Report.add" and frame.f_locals["problem"] is not None:
            seen.add((Path(frame.f_back.f_code.co_filename).name, frame.f_back.f_lineno))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for text in MISTAKES:
            problems_of(text)
    finally:
        sys.setprofile(before)
    assert seen
    missed = {
        place
        for place in places_of_problems()
        if not any(place[0] == file and place[1] <= line <= place[2] for file, line in seen)
    }
    assert missed == set()


def test_option_is_named_not_the_file():
    """An invalid `share=` is not on the line of the share that it replaces, nor in the file."""
    text = 'preset = "aws"\nshare = "50%"'
    of_preset, of_share = problems_of(text, preset="awz", share="150%")
    assert of_preset == """--preset: 'awz' is not a preset: write "aws" or "none\""""
    assert of_share.startswith("--share: '150%' is more than AWS publishes")


def test_shared_queue_may_contradict_an_option():
    """An option can lower a limit below what another service with the same queue allows."""
    file = Registry.parse('preset = "aws"\n[apigatewayv2]\nadaptive = {floor = "1 per 99s"}')
    with pytest.raises(LimitsError) as caught:
        Registry.from_options(["apigateway.GetTags=1/h"], base=file)
    (problem,) = caught.value.problems
    assert problem.startswith("--limit: apigatewayv2.adaptive: apigateway and apigatewayv2 share a")
