"""Other launchers that come by way of sitecustomize, from PyPI, in both orders."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,  # installs them
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]

PACKAGES = [
    "boto3",
    "ddtrace",
    "opentelemetry-distro",
    "opentelemetry-instrumentation",
    "opentelemetry-instrumentation-botocore",
]
QUIET = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "DD_TRACE_ENABLED": "true",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Where the programs of an environment with the launchers are."""
    folder = tmp_path_factory.mktemp("launchers")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES]
    subprocess.run(install, check=True, timeout=300)
    return folder / "bin"


@pytest.fixture
def program(run):
    """Calls five times, then has a child do the same; says which tracers are there."""
    child = run.script("calls(5)", "child.py")
    return run.script(f"""
        import botocore.client, subprocess
        calls(5)
        traced = type(botocore.client.BaseClient._make_api_call).__name__
        print("otel" if "opentelemetry.instrumentation.botocore" in sys.modules else "",
              "ddtrace" if "ddtrace" in sys.modules else "", traced)
        subprocess.run([sys.executable, {child!r}], check=True)
    """)


def outside(run, launcher, arguments):
    """Run a launcher on `aioapiqueue run`."""
    with subprocess.Popen(
        [str(launcher), *run.arguments(*arguments)],
        env=run.environment(**QUIET),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            return run.end(process, within=60)
        finally:
            process.kill()


def paced(aws):
    """Whether ten calls came, 100 ms apart."""
    times = [at for at, _ in aws.arrivals]
    return len(times) == 10 and aws.most_in(1) <= 11 and times[-1] - times[0] >= 0.8


def test_opentelemetry_inside_is_refused(run, aws, scripts, program):
    """`run -- opentelemetry-instrument python app.py`: exit code 2, and the order that works."""
    launcher = scripts / "opentelemetry-instrument"
    ended = run("--limit", "ec2=10/s", "--", launcher, scripts / "python", program, env=QUIET)
    assert (ended.code, ended.out) == (2, b"")
    assert "opentelemetry-instrument aioapiqueue run ... -- COMMAND" in ended.words
    assert aws.arrivals == []


def hidden_inside(run, scripts, program, *options):
    """Run a launcher by way of a shell, so that it can only be found out once it runs."""
    command = (
        f"{scripts}/opentelemetry-instrument {scripts}/python {program}; sleep 10; echo survived"
    )
    options = (*options, "--limit", "ec2=10/s", "--grace", "2")
    return run(*options, "--", "sh", "-c", command, env=QUIET, within=60)


def test_opentelemetry_hidden_inside_is_stopped(run, aws, scripts, program):
    """Without a gateway nothing paces it: it is stopped, exit code 3."""
    ended = hidden_inside(run, scripts, program, "--no-any")
    assert ended.code == 3
    assert b"survived" not in ended.out
    assert "did not load the" in ended.words or "then replaced itself with another" in ended.words


def test_opentelemetry_hidden_inside_is_told_at_the_end(run, aws, scripts, program):
    """With a gateway its calls may come there: if none did, the end says so, exit code 3."""
    ended = hidden_inside(run, scripts, program)
    assert ended.code == 3
    assert ended.out.endswith(b"survived\n")
    assert "no call was paced: none reached the local proxy" in ended.words
    assert f"not paced: {scripts}/python" in ended.words


def test_opentelemetry_outside_works(run, aws, scripts, program):
    """`opentelemetry-instrument aioapiqueue run -- python app.py`: paced, traced, children too."""
    arguments = ("--limit", "ec2=10/s", "--", scripts / "python", program)
    ended = outside(run, scripts / "opentelemetry-instrument", arguments)
    assert ended.code == 0, ended.err
    assert paced(aws)
    assert ended.out.count(b'"trace_id"') == 10
    assert "10 AWS calls, 10 paced" in ended.words


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_ddtrace_works_in_both_orders(order, run, aws, scripts, program):
    """ddtrace-run chains to the next sitecustomize: paced and traced, children too."""
    command = (scripts / "python", program)
    if order == "inside":
        options = ("--limit", "ec2=10/s", "--", scripts / "ddtrace-run")
        ended = run(*options, *command, env=QUIET, within=60)
    else:
        ended = outside(run, scripts / "ddtrace-run", ("--limit", "ec2=10/s", "--", *command))
    assert ended.code == 0, ended.err
    assert paced(aws)
    assert b"ddtrace" in ended.out
    assert "10 AWS calls, 10 paced" in ended.words
