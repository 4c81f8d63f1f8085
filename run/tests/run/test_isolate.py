"""Programs that ignore proxies, where nothing but the gateway can be reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.aws_programs import FORM, HOST, SIGNED, as_monotonic, assert_paced, calls_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces"),
]

AIOHTTP = (
    SIGNED
    + """
import aiohttp, asyncio, time
print(time.time())
async def main():
    async with aiohttp.ClientSession() as session:
        async def call():
            url, headers, data = signed()
            async with session.post(url, headers=headers, data=data) as answer:
                answer.raise_for_status()
        await asyncio.gather(*(call() for _ in range(int(sys.argv[1]))))
asyncio.run(main())
"""
)
ISOLATED = ("--isolate",)
# How late calls may be at most is real time, of which a busy machine takes some.
in_real_time = pytest.mark.flaky(reruns=2)
NOBODY = 65534


@in_real_time
def test_program_that_ignores_proxies_is_paced(paced_here, network, run, python):
    """Of aiohttp as it is by default, 12 at once: at the limit, and each signature is right."""
    program = run.folder / "ignores.py"
    program.write_text(AIOHTTP)
    ended, figures = paced_here(python, program, "12", limit="ec2=20/s", options=ISOLATED)
    assert ended.code == 0, ended.err
    assert_paced(network.aws, 12, 0.05, begun=as_monotonic(ended.out))
    assert calls_of(figures) == {"ec2.DescribeVolumes": 12}
    assert (
        "isolated: the program reaches other hosts only through a local proxy (ports 80, 443"
        in ended.words
    )
    assert not run.leftovers


@in_real_time
def test_server_outside_is_paced(paced_outside_here, outside, run, python):
    """The same where nothing but the server's own network is on the way."""
    program = run.folder / "ignores.py"
    program.write_text(AIOHTTP)
    ended, figures = paced_outside_here(python, program, "8", limit="ec2=20/s", options=ISOLATED)
    assert ended.code == 0, ended.err
    assert_paced(outside.aws, 8, 0.05, begun=as_monotonic(ended.out))
    assert {one.host for one in outside.aws.arrivals} == {HOST}
    assert HOST in outside.network.asked
    assert calls_of(figures) == {"ec2.DescribeVolumes": 8}


def test_without_isolation_it_is_not(paced_here, network, run, python):
    """The same program goes past the proxy, here to a host that nobody can find."""
    program = run.folder / "ignores.py"
    program.write_text(AIOHTTP)
    ended, _ = paced_here(python, "-I", program, "1")
    assert ended.code == 1
    assert b"ec2.us-east-1.amazonaws.com" in ended.err
    assert not network.aws.arrivals


def test_without_any_environment(paced_here, network, run, python):
    """A program that starts with none is paced: it can only go one way."""
    program = run.folder / "call.py"
    program.write_text(f"""
import http.client, ssl
context = ssl._create_unverified_context()
calls = http.client.HTTPSConnection("{HOST}", context=context)
calls.request("POST", "/", "{FORM}", {{"Content-Type": "application/x-www-form-urlencoded"}})
print(calls.getresponse().status)
""")
    ended, figures = paced_here("env", "-i", python, program, options=ISOLATED)
    assert (ended.code, ended.out) == (0, b"200\n"), ended.err
    assert calls_of(figures) == {"ec2.DescribeVolumes": 1}
    ended, _ = paced_here("env", "-i", python, program)
    assert ended.code == 2


def test_program_is_itself(paced, network, run):
    """Its process id, its user, its folder, its input, its exit code are what they would be."""
    ended, _ = paced(
        "bash",
        "-c",
        'read line; echo "$line $(id -u) $(pwd) $PPID"; exec bash -c "exit 7"',
        options=ISOLATED,
        send=b"hello\n",
        cwd=run.folder,
    )
    assert ended.code == 7
    line, user, folder, parent = ended.out.split()
    assert (line, int(user), folder) == (b"hello", os.geteuid(), os.fsencode(run.folder))
    assert int(parent) > 1


def test_program_has_the_usual_signals(paced_here, network):
    """It ends by a broken pipe as ever; one that cannot be executed has a shell's exit code."""
    ended, _ = paced_here("bash", "-c", "seq 1000000 | head -1", options=ISOLATED)
    assert (ended.code, ended.out) == (0, b"1\n")
    assert b"Broken pipe" not in ended.err


def test_program_that_cannot_be_executed(paced_here, network, run):
    """As without isolation."""
    program = run.folder / "noshebang"
    program.write_text("echo hello\n")
    program.chmod(0o755)
    ended, _ = paced_here(program, options=ISOLATED)
    assert ended.code == 126
    assert b"noshebang: cannot be started: Exec format error" in ended.err


def test_environment_is_as_it_was_given(paced_here, network):
    """Nothing is added for the interpreter that isolates it."""
    ended, _ = paced_here("env", options=ISOLATED)
    assert b"LC_CTYPE" not in ended.out
    assert b"HTTPS_PROXY=" in ended.out


def test_nothing_else_can_be_reached(paced_here, network, run, python):
    """Neither an address, nor another port, nor what listens on this host."""
    program = run.folder / "tries.py"
    program.write_text(f"""
import socket, sys
print(socket.gethostbyname("whatever.example.com"))
for address in (("192.0.2.1", 443), ("127.0.0.1", {network.aws.port}), ("example.com", 22)):
    try:
        socket.create_connection(address, timeout=5)
    except OSError as error:
        print(type(error).__name__, error.errno)
""")
    ended, _ = paced_here(python, program, options=ISOLATED)
    assert ended.out.decode().splitlines() == [
        "127.0.0.1",
        "OSError 101",  # the network is unreachable
        "ConnectionRefusedError 111",
        "ConnectionRefusedError 111",
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_hosts_of_others_are_passed_on(paced_here, network, run):
    """With and without TLS, unseen; what has no name is hung up on."""
    script = run.folder / "others.sh"
    script.write_text(
        "unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy\n"
        "curl -sSv https://example.com/ 2>&1 >/dev/null | grep -c 'issuer.*trustme'\n"
        "curl -sS -o /dev/null -w '%{http_code}\\n' -d x http://example.com/\n"
        f"curl -sS -o /dev/null -w '%{{http_code}}\\n' -d '{FORM}' http://{HOST}/\n"
        "curl -sS -o /dev/null -w '%{http_code}\\n' https://127.0.0.1/ 2>/dev/null\n"
        f"curl -sS -o /dev/null -w '%{{http_code}}\\n' -d '{FORM}' https://{HOST}/\n"
    )
    ended, figures = paced_here("bash", script, options=ISOLATED)
    assert ended.out.split() == [b"1", b"200", b"200", b"000", b"200"]
    assert figures["gateway"]["passed_by"] == {"example.com": 2}
    assert calls_of(figures) == {"ec2.DescribeVolumes": 2}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_metadata_service_is_passed_on(paced_here, network, run):
    """Credentials of an instance come from an address, which the gateway asks directly."""
    script = run.folder / "metadata.sh"
    script.write_text("curl -sS -o /dev/null -w '%{http_code}' http://169.254.169.254/latest\n")
    ended, figures = paced_here("bash", script, options=ISOLATED, within=90)
    assert ended.out in {b"502", b"200", b"401", b"403", b"404"}  # 502: there is none on this host
    assert figures["gateway"]["passed_by"] == {"169.254.169.254": 1}
    assert not network.proxy.asked


def test_python_keeps_its_hook(paced_here, network, run, python):
    """The hub is reached by its own socket, and asked before the signature."""
    program = run.folder / "boto.py"
    program.write_text("import boto3\nec2 = boto3.client('ec2')\nec2.describe_volumes()\n")
    ended, figures = paced_here(python, program, options=ISOLATED)
    assert ended.code == 0
    assert figures["gateway"]["asked_before"] == 1
    assert not network.aws.wrong


# Lets another user read what root's interpreter is made of, in mounts that nobody else sees.
AS_NOBODY = (
    "mount --bind /root {0} && mount -t tmpfs -o mode=755 tmpfs /root && "
    "for one in $(ls -A {0}); do test -d {0}/$one && mkdir /root/$one && "
    "mount --bind {0}/$one /root/$one; done; "
    'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user, as root can"
)
@in_real_time
def test_another_user_than_root(network, run, tmp_path):
    """In a namespace of its own users: the program is paced, and is who it is."""
    work = Path("/tmp") / f"nobody-{os.getpid()}"  # noqa: S108 - short, and readable by all
    shutil.rmtree(work, ignore_errors=True)
    for name in ("old", "files"):
        (work / name).mkdir(parents=True)
    try:
        shutil.copy(tmp_path / "company.pem", work / "files")
        (work / "files" / "ignores.py").write_text(AIOHTTP + "import os\nprint(os.getuid())\n")
        shutil.chown(work / "files", NOBODY, NOBODY)
        work.chmod(0o755)
        figures = work / "files" / "figures.json"
        arguments = ("--limit", "ec2=20/s", "--private", "--isolate", "--json", figures, "--")
        environment = run.environment(
            **network.environment
            | {"SSL_CERT_FILE": str(work / "files" / "company.pem"), "TMPDIR": str(work / "files")}
        )
        program = [sys.executable, str(work / "files" / "ignores.py"), "8"]
        command = [*run.arguments(*arguments), *program]
        done = subprocess.run(
            [
                shutil.which("unshare"),
                "-m",
                "sh",
                "-c",
                AS_NOBODY.format(work / "old"),
                "sh",
                *command,
            ],
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        begun, user = done.stdout.split()
        assert int(user) == NOBODY
        assert_paced(network.aws, 8, 0.05, begun=as_monotonic(begun))
        assert calls_of(json.loads(figures.read_text())) == {"ec2.DescribeVolumes": 8}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def test_program_that_calls_nobody(paced_here, network):
    """Whatever it had called would have been paced: no warning, and its own exit code."""
    ended, _ = paced_here("true", options=ISOLATED)
    assert ended.code == 0
    assert "WARNING" not in ended.words


def test_system_without_namespaces(network, run, python):
    """Where none may be made: nothing is started, and the reason and the remedy are named."""
    arguments = run.arguments("--isolate", "--private", "--", python, "-c", "print('started')")
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-c"),
            'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"',
            "sh",
            *arguments,
        ],
        env=run.environment(**network.environment),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    words = done.stderr.replace(b"\naioapiqueue: ", b" ")
    assert b"--isolate: this system does not allow namespaces" in words
    assert b"nothing was started" in words
    assert not run.leftovers


def test_options_that_exclude_each_other(quiet_run, python):
    """A program cannot be isolated without the gateway."""
    ended = quiet_run.here("--isolate", "--no-any", "--", python, "-c", "")
    assert ended.code == 2
    assert "--isolate and --no-any cannot be combined" in ended.words
