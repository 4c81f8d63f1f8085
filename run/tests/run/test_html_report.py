"""`run --report`: a page that has what the JSON has, and nothing secret."""

from __future__ import annotations

import json
import os
import re
import sys
import time

import pytest
from typer.testing import CliRunner

from aioapiqueue.recording.spi import as_clock
from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.run.activation import Inactive, Why
from aioapiqueue_run.cli.run.html_report import html_report
from aioapiqueue_run.cli.run.json_report import json_report
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.options import RunOptions
from aioapiqueue_run.hub import CallStats, Ended, Process, Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import Kind, ProcessLoad
from tests.helpers.plans import other_runs, plan_of
from tests.helpers.words import words_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="run needs POSIX"),
]


def words_of_page(page):
    """What stands on a page, without its elements, styles and scripts."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page.read_text("utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def lanes_of_page(page):
    """The numbers of each lane, exactly, in the order of the columns."""
    rows = re.findall(r'<tr><th scope="row">(\w+)</th><td>(.*)</tr>', page.read_text("utf-8"))
    return {
        lane: [float(number) for number in re.findall(r'<data value="([^"]+)"', cells)]
        for lane, cells in rows
    }


def charts_of_page(page):
    """The data of its charts."""
    data = re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"))[1]
    return json.loads(data)["charts"]


def test_page_and_json_have_the_same(run, aws, python, tmp_path):
    """Queues, lanes and services without a limit; a push-back makes the verdict."""
    answers = iter(range(1, 1000))
    aws.throttles = lambda action: action == "DescribeVolumes" and next(answers) == 3
    program = run.script("""
        import random
        random.random = lambda: 0.0  # of which boto3 makes the time until it tries again
        begin()
        ec2 = client()
        for _ in range(12):
            ec2.describe_snapshots()
        for _ in range(5):
            ec2.describe_volumes()
        sts = client("sts")
        for _ in range(4):
            sts.get_caller_identity()
    """)
    figures, page = tmp_path / "figures.json", tmp_path / "report.html"
    options = ("--limit", "ec2=50/s", "--limit", "ec2.DescribeVolumes=10/s", "--json", figures)
    ended = run(*options, "--report", page, "--", python, program, "--token", "hunter2")
    assert ended.code == 0, ended
    told, said = json.loads(figures.read_text()), words_of_page(page)

    # Once more for the one that was throttled.
    verdict = told["verdict"]
    assert verdict.startswith("throttled once; 22 calls in 0:0")
    masked = verdict.replace("AKIAIOSFODNN7EXAMPLE", "access-key-1").replace("t", "T", 1)
    assert (told["good"], said.count(masked)) == (False, 2)  # the title, and the first line
    (ec2,) = told["queues"]  # what has no limit is in the figures only
    assert (ec2["limits"], ec2["allowed"], ec2["paced"]) == (["50/s"], {"calls": [[0, 50]]}, True)
    assert [(one["lane"], one["limits"]) for one in ec2["lanes"]] == [("DescribeVolumes", ["10/s"])]
    # The page counts by lanes, apart from the figures by operation.
    lanes, charts = lanes_of_page(page), charts_of_page(page)
    assert [sum(charts[place]["used"]) for place in (0, -2)] == [18, 4]
    assert {one["lane"]: one["calls"] for one in told["figures"]} == {
        "DescribeSnapshots": 12, "DescribeVolumes": 6, "GetCallerIdentity": 4,
    }  # fmt: skip
    for one in told["figures"]:
        waits = [one["waits"][name] for name in ("p50", "p99", "max")] if one["paced"] else []
        counts = [one[name] for name in ("calls", *("throttled", "errors", "refused"))]
        assert lanes[one["lane"]] == pytest.approx([counts[0], *waits, *counts[1:]], abs=1e-6)
    times = told["times"]
    assert 0 < times["unpaced"] < told["seconds"]
    assert times["blanket"] == pytest.approx(max(times["unpaced"], 22 * 0.1))  # if it is busy

    assert f"aioapiqueue run: {python.rpartition('/')[2]} program.py" in said
    assert "ec2 eu-west-1 access-key-1" in said
    for secret in ("hunter2", "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in page.read_text("utf-8")
    assert figures.read_text().count("AKIAIOSFODNN7EXAMPLE") > 1


@pytest.mark.parametrize(
    ("options", "shown"), [((), "…4753"), (("--show-accounts",), "029608264753")]
)
def test_accounts_only_where_asked_for(run, python, tmp_path, options, shown):
    """An account id has its last four digits in the page, and all of them with --show-accounts."""
    program = run.script("""
        begin()
        os.environ["AWS_ACCOUNT_ID"] = "111122223333"
        ec2 = boto3.client("ec2", endpoint_url=os.environ["AWS"], region_name="eu-west-1",
                           aws_access_key_id="ASIAQNZGKIQY56JQ7WML", aws_secret_access_key="x",
                           aws_session_token="t")
        ec2.describe_snapshots()
    """)
    page = tmp_path / "report.html"
    ended = run("--limit", "ec2=20/s", "--report", page, *options, "--", python, program)
    assert ended.code == 0, ended
    assert re.search(r"ec2 eu-west-1 (\S+) 20/s", words_of_page(page))[1] == shown


def test_dry_run_shows_what_the_limits_would_do(run, python, tmp_path):
    """Its page has the limit beside what was sent, and how long a paced run would take."""
    program = run.script("calls(30)")
    figures, page = tmp_path / "figures.json", tmp_path / "report.html"
    options = ("--dry-run", "--limit", "ec2=10/s", "--json", figures, "--report", page)
    ended = run(*options, "--", python, program)
    assert ended.code == 0, ended
    told, said = json.loads(figures.read_text()), words_of_page(page)
    assert told["verdict"].startswith("dry run, nothing was paced; no call was throttled; 30 calls")
    assert told["good"] is None
    (queue,) = told["queues"]
    assert (queue["paced"], queue["limits"]) == (False, ["10/s"])
    assert queue["allowed"] == {"calls": [[0, 10]]}
    assert charts_of_page(page)[0]["allowed"] == [[0, 10]]
    assert f"paced (estimate) {as_clock(told['if_paced']['seconds'])}" in said


def test_what_was_not_paced_comes_first(run, quiet_run, python, tmp_path):
    """A program that could not be paced is the verdict's beginning, without its arguments."""
    page = tmp_path / "report.html"
    program = quiet_run.plain("begin(); time.sleep(0.8)")
    command = ("/bin/sh", "-c", f"{python} -S {program} --token hunter2; exit 0")
    options = ("--allow-inactive", "--limit", "ec2=1/s", "--grace", "0.2", "--report", page)
    ended = quiet_run(*options, "--", *command)
    assert ended.code == 0, ended
    said = words_of_page(page)
    assert said.startswith("No program was paced; no calls")
    assert "not paced: python (process" in said
    assert "hunter2" not in page.read_text("utf-8")


def test_bad_file_is_refused_before_anything_runs(tmp_path):
    """A folder, the file of --json, one that cannot be: nothing is started, and nothing is left."""
    ran = tmp_path / "ran"
    same = tmp_path / "same"
    for options, message in (
        (("--report", tmp_path), f"--report: {tmp_path} cannot be written: Is a directory"),
        (("--report", tmp_path / "no" / "r.html"), "--report: "),
        (("--json", same, "--report", same), f"--report: {same} is also the file of --json"),
        (("--log", same, "--report", same), f"--report: {same} is also the file of --log"),
    ):
        command = ["run", "--limit", "ec2=1/s", *options, "--", "touch", ran]
        ended = CliRunner().invoke(app, list(map(str, command)))
        assert ended.exit_code == 2
        words = words_of(ended.stderr)
        assert message in words, words
        assert "nothing was started" in words
        assert not ran.exists()


def outcome_of(registry, account):
    """What came of ten seconds of calls to two services, two of three throttled."""
    calls = Calls(registry, QueueRecords(paced=True), Watcher())
    calls.recording.begin(now=1_000.0, began=time.time())
    for service, operation in (("iam", "ListUsers"), ("sts", "GetCallerIdentity")):
        kind = Kind(service, operation, "eu-west-1", account)
        for number in range(300):
            now = 1_000.0 + number / 30
            request = calls.request(ProcessLoad(), kind, {}, ahead=False)
            calls.joined(request, now)
            calls.started(request, now)
            calls.ended(request, now, Ended.THROTTLED if number % 3 else Ended.ANSWERED)
    figures, recording = calls.figures, calls.recording
    return Outcome(code=0, figures=figures, recording=recording, seconds=10.0)


@pytest.mark.parametrize("key", ["a", "second", "iam", "eu-west-1", "AKIAIOSFODNN7EXAMPLE"])
def test_key_is_masked_in_names_and_not_in_prose(tmp_path, key):
    """An access key, or what stands for an account, may be a word: sentences keep theirs."""
    registry = Registry({"iam": "100/s", "sts": "50/s"})
    outcome = outcome_of(registry, key)
    delay = {"queue": outcome.figures[0].queue, "lane": "", "limit": "9/s", "whose": "b, process 7"}
    plan = plan_of(
        registry,
        given=RunOptions(["scan"], show_accounts=True),
        on_host=other_runs([delay | {"calls": 1, "seconds": 1.0}]),
    )
    figures = json_report(plan, outcome, 0)
    page = tmp_path / "report.html"
    page.write_text(html_report(plan, outcome, figures), "utf-8")
    said = words_of_page(page)
    assert "iam ListUsers: throttled 200 times, while 10 calls a second were accepted" in said
    assert said.count("of the limit in sts eu-west-1 access-key-1") == 2  # title and headline
    for queue in ("iam", "sts"):
        assert f"{queue} eu-west-1 access-key-1 " in said
        assert f"{queue} eu-west-1 {key} " not in said
    assert "calls delayed seconds iam eu-west-1 access-key-1 9/s b, process 7" in said


def test_key_of_a_queue_that_only_waited_is_masked(tmp_path):
    """A run that ended before its first call started names its queue beside another run."""
    registry = Registry({"s3": "1/h"})
    needs = registry.find_call("s3", "GetObject", region="eu-west-1", account="minio")
    queue = needs.queue.name
    plan = plan_of(
        registry,
        given=RunOptions(["scan"], show_accounts=True),
        on_host=other_runs(shared_with={"b, process 7": [queue]}),
    )
    waiting = CallStats("s3", "GetObject", "eu-west-1", "minio", queue, paced=True)
    outcome = Outcome(code=0, figures=[waiting])
    page = tmp_path / "report.html"
    figures = json_report(plan, outcome, 0)
    page.write_text(html_report(plan, outcome, figures), "utf-8")
    said = words_of_page(page)
    assert "limits shared with other runs on this host: b, process 7 (s3 eu-west-1 access" in said
    assert "minio" not in page.read_text("utf-8")


def test_page_is_named_at_the_end(quiet_run, python, tmp_path):
    """The last line says where it is."""
    page = tmp_path / "report.html"
    options = ("--limit", "ec2=1/s", "--report", page)
    ended = quiet_run(*options, "--", python, quiet_run.plain(""))
    assert ended.words.endswith(f" report written to {page}")


def test_page_that_cannot_be_made_keeps_the_exit_code(quiet_run, python, tmp_path):
    """Whatever goes wrong after the program's end, its exit code is ours."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys, aioapiqueue.integrations\n"
        "sys.modules['aioapiqueue.integrations.report'] = None"
    )
    program = quiet_run.plain("sys.exit(7)")
    options = ("--limit", "ec2=1/s", "--report", tmp_path / "r.html")
    path = {"PYTHONPATH": f"{broken}:{os.environ.get('PYTHONPATH', '')}"}
    ended = quiet_run(*options, "--", python, program, env=path)
    assert (
        ended.code,
        "r.html not written because of a bug, please report it: " in ended.words,
    ) == (
        7,
        True,
    ), ended
    assert not (tmp_path / "r.html").exists()  # none, rather than an empty one


def test_notes_have_no_arguments():
    """Two programs of which one's command begins with the other's: neither has its arguments."""
    figures = {"queues": [], "on_host": None, "figures": [], "exit_code": 0, "processes": []}
    figures |= {"verdict": "v", "good": True, "version": "1", "start": None, "end": None}
    figures |= {"seconds": 1.0, "step_seconds": 1.0, "changes": [], "changes_left_out": 0}
    figures |= {"learnt": [], "lanes_left_out": False, "times": {"seconds": 1.0}}
    commands = ("python a.py", "python a.py --token hunter2")
    outcome = Outcome(
        processes=[Process(1, "python", "3.11.7", "1.43.117")],
        inactive=[
            Inactive(number, one, Why.NEVER, program=False) for number, one in enumerate(commands)
        ],
    )
    plan = plan_of()
    text = html_report(plan, outcome, figures)
    assert "not paced: python (process 0), python (process 1)" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/scout", "aws", "--password", "x"], "scout"),
        (["python3.11", "-W", "error", "-m", "prowler", "-m", "secret"], "python3.11 -m prowler"),
        (["/usr/bin/python3", "-u", "/srv/scan.py", "-m", "secret"], "python3 scan.py"),
        (["python", "-c", "password = 'x'"], "python"),
        (["python", "-X", "dev"], "python"),
        (["python3", "-mprowler", "--password", "x"], "python3 -m prowler"),
        (["python3", "-um", "prowler", "secret"], "python3 -m prowler"),
        (["python3", "-cCODE", "secret"], "python3"),
        (["python3", "-uc", "password='x'"], "python3"),
        (["python3", "-Wignore", "-Xdev", "scan.py", "secret"], "python3 scan.py"),
        (["python3", "-uX", "dev", "scan.py"], "python3 scan.py"),
        (["python3", "-", "secret"], "python3"),
        (["python3", "--check-hash-based-pycs", "never", "scan.py"], "python3 scan.py"),
        (["python"], "python"),
        (["env", "TOKEN=x", "python", "a.py"], "env"),
    ],
)
def test_name_of_a_program_has_no_arguments(command, name):
    """A page is for others: no argument is in it but the script or module that runs."""
    assert RunOptions(command).program == name
