"""Programs that read no variable for certificates (GnuTLS), and those that variables break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.aws_programs import calls_of
from tests.helpers.signed_aws import Answered

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]


def uses_gnutls(name):
    """Return whether a program is there, and linked with GnuTLS."""
    path, ldd = shutil.which(name), shutil.which("ldd")
    if path is None or ldd is None:
        return False
    return b"gnutls" in subprocess.run([ldd, path], capture_output=True, check=True).stdout


needs_wget = pytest.mark.skipif(not uses_gnutls("wget"), reason="needs wget with GnuTLS")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
needs_namespaces = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")
OBJECT = "https://bkt1.s3.eu-west-1.amazonaws.com/o.txt"


@pytest.fixture
def wgetrc(run, tmp_path):
    """Give the company's authority to wget as its user would: in a file of its own."""
    path = run.folder / "wgetrc"
    path.write_text(f"ca_certificate = {tmp_path / 'company.pem'}\n")
    return {"WGETRC": str(path)}


@needs_wget
def test_host_without_limit_is_passed_by(paced, network, wgetrc):
    """A download from S3 under a limit of EC2 works as without us, and no word alarms."""
    ended, figures = paced("wget", "-qO-", OBJECT, env=wgetrc)
    assert (ended.code, ended.out) == (0, b"{}"), ended.err
    assert figures["gateway"]["passed_by"] == {"bkt1.s3.eu-west-1.amazonaws.com": 1}
    assert "no call matched a limit. Connections to bkt1.s3" in ended.words
    assert "were tunnelled without inspection" in ended.words
    assert "ignores HTTPS_PROXY" not in ended.words
    assert "WARNING" not in ended.words


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("option", [("--dry-run",), ("--fail-on", "unpaced > 5")])
def test_all_of_aws_is_counted_where_asked(paced, network, option):
    """A dry run counts, and so does a gate of unpaced calls: all hosts of AWS are opened."""
    ended, figures = paced("curl", "-sS", OBJECT, options=option)
    assert (ended.code, ended.out) == (0, b"{}"), ended.err
    assert calls_of(figures) == {"s3.GetObject": 1}
    assert figures["gateway"]["passed_by"] == {}


def test_mark_is_not_sent_past_the_gateway(paced, network, run, python):
    """What the hook adds for the gateway is taken off there: where that is blind, nothing is."""
    network.aws.answer = lambda one: Answered() if ".s3." in one.host else None
    program = run.folder / "boto.py"
    program.write_text(
        "import boto3\n"
        "s3 = boto3.client('s3')\n"
        "s3.put_object(Bucket='ec2', Key='k', Body=b'')\n"
        "boto3.client('ec2').describe_volumes()\n"
    )
    ended, figures = paced(python, program)
    assert ended.code == 0, ended.err
    assert calls_of(figures) == {"s3.PutObject": 1, "ec2.DescribeVolumes": 1}
    assert figures["gateway"]["asked_before"] == 1
    assert figures["gateway"]["passed_by"] == {"ec2.s3.amazonaws.com": 1}
    assert len(network.aws.arrivals) == 2
    assert not any("aioapiqueue" in name for one in network.aws.arrivals for name in one.headers)


@needs_git
def test_git_trusts_the_gateway(paced, network, run):
    """By a variable: git, whichever library it is linked with, fails at the answer only."""
    arguments = ("git", "ls-remote", "https://git.example.com/o/r")
    ended, figures = paced(
        *arguments, limit="https://git.example.com=5/s", env={"HOME": "/nowhere"}
    )
    assert network.aws.arrivals[0].target == "/o/r/info/refs?service=git-upload-pack"
    assert sum(calls_of(figures).values()) == len(network.aws.arrivals)
    assert figures["gateway"]["untrusted"] == {}
    assert b"certificate" not in ended.err


@needs_git
def test_authority_of_gits_configuration_is_kept(paced, network, run, tmp_path):
    """What GIT_SSL_CAINFO would replace is in the run's file, so that other hosts still work."""
    network.environment.pop("SSL_CERT_FILE")
    (run.folder / ".gitconfig").write_text(f"[http]\nsslCAInfo = {tmp_path / 'company.pem'}\n")
    arguments = ("git", "ls-remote", "https://git.example.com/o/r")
    ended, figures = paced(*arguments, env={"HOME": str(run.folder)})
    assert figures["gateway"]["passed_by"] == {"git.example.com": 1}
    assert network.aws.arrivals, ended.err


@pytest.mark.parametrize("named", ["", "environment", "profile", "credentials"])
def test_bundle_of_aws_only_where_the_user_has_one(paced, network, run, tmp_path, named):
    """Programs in Go that have an HTTP client of their own (rclone) refuse AWS_CA_BUNDLE."""
    bundle = f"ca_bundle = {tmp_path / 'company.pem'}\n"
    files = {"config": "[default]\nregion = x\n[profile other]\n", "credentials": "[other]\n"}
    files["config"] += bundle * (named == "profile")
    files["credentials"] += bundle * (named == "credentials")
    for name, text in files.items():
        (run.folder / name).write_text(text)
    environment = {
        "AWS_CONFIG_FILE": str(run.folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(run.folder / "credentials"),
    }
    if named == "environment":
        environment["AWS_CA_BUNDLE"] = str(tmp_path / "company.pem")
    ended, _ = paced("sh", "-c", "echo ${AWS_CA_BUNDLE:-none}", env=environment)
    given = ended.out.decode().strip()
    assert (given == "none") == (not named)
    assert given.endswith("/ca-bundle.pem") == bool(named)


def test_bundle_in_the_credentials_file(paced, network, run, python, tmp_path):
    """boto3 follows it before any variable but AWS_CA_BUNDLE; the gateway trusts it, too."""
    network.environment.pop("SSL_CERT_FILE")
    (run.folder / "credentials").write_text(f"[other]\nca_bundle = {tmp_path / 'company.pem'}\n")
    environment = {
        "AWS_SHARED_CREDENTIALS_FILE": str(run.folder / "credentials"),
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_PROFILE": "other",
    }
    program = "import boto3; boto3.client('ec2').describe_volumes(); print('answered')"
    ended, figures = paced(python, "-c", program, env=environment)
    assert (ended.code, ended.out) == (0, b"answered\n"), ended.err
    assert calls_of(figures) == {"ec2.DescribeVolumes": 1}


STORE = "/etc/ssl/certs/ca-certificates.crt"


@needs_namespaces
@needs_wget
def test_isolated_program_trusts_by_the_systems_file(paced):
    """GnuTLS reads no variable: the run's certificates are in place of the system's.

    The file has all that the user trusts, too, so that what is not opened still works. A program of
    root's may become another user, as package managers do, and can read it.
    """
    commands = [
        "wget -qO- 'https://ec2.us-east-1.amazonaws.com/?Action=DescribeVolumes'",
        f"wget -qO- {OBJECT}",
    ]
    if os.geteuid() == 0:
        commands.append(f"setpriv --reuid 65534 --clear-groups grep -c BEGIN {STORE}")
    ended, figures = paced("sh", "-c", " && ".join(commands), options=("--isolate",))
    assert ended.code == 0, ended.err
    assert ended.out.startswith(b"{}{}")
    assert calls_of(figures) == {"ec2.DescribeVolumes": 1}
    assert figures["gateway"]["passed_by"] == {"bkt1.s3.eu-west-1.amazonaws.com": 1}
    assert os.geteuid() or int(ended.out[4:]) > 50


LIMIT = "https://api.example.com=10/s"
UNTRUSTED = (
    "WARNING: {} closed: the program does not trust the proxy's certificate, or speaks only HTTP/2"
)


@needs_wget
def test_distrust_after_the_handshake_is_named(paced, network, wgetrc):
    """GnuTLS looks at the certificate after the handshake: the reason is said all the same."""
    url = "https://api.example.com/x"
    ended, figures = paced("wget", "-qO-", "--tries=1", url, limit=LIMIT, env=wgetrc)
    assert ended.code == 5
    assert figures["gateway"]["untrusted"] == {"api.example.com": 1}
    assert UNTRUSTED.format("1 connection to api.example.com") in ended.words
    assert "try --isolate" in ended.words
    assert "ignores HTTPS_PROXY" not in ended.words


JAVA = """
import java.net.*; import java.net.http.*;
class Call {
  public static void main(String[] given) throws Exception {
    var proxy = URI.create(System.getenv("HTTPS_PROXY"));
    var user = proxy.getUserInfo().split(":");
    var client = HttpClient.newBuilder()
      .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
      .authenticator(new Authenticator() {
        protected PasswordAuthentication getPasswordAuthentication() {
          return new PasswordAuthentication(user[0], user[1].toCharArray());
        }
      }).build();
    try {
      client.send(HttpRequest.newBuilder(URI.create("https://api.example.com/x")).build(),
        HttpResponse.BodyHandlers.discarding());
    } catch (javax.net.ssl.SSLHandshakeException error) { System.out.println("not trusted"); }
  }
}
"""


@pytest.mark.slow  # Java compiles for more than a second; wget, above, hangs up likewise
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_java_has_a_store_of_its_own(paced, network, run):
    """It reads no file that we could give it, and hangs up: the end of the run says so."""
    program = run.folder / "Call.java"
    program.write_text(JAVA)
    options = ("-Djdk.http.auth.tunneling.disabledSchemes=", "-XX:TieredStopAtLevel=1")
    ended, figures = paced("java", *options, program, limit=LIMIT)
    assert ended.out == b"not trusted\n", ended.err
    assert list(figures["gateway"]["untrusted"]) == ["api.example.com"]
    assert "ignores HTTPS_PROXY" not in ended.words


CONNECTIONS = """
import base64, os, socket, ssl, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
user = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
context = ssl.create_default_context()

def tunnel(host):
    sock = socket.create_connection((proxy.hostname, proxy.port))
    asks = f"CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}\\r\\nProxy-Authorization: Basic {user}"
    sock.sendall(f"{asks}\\r\\n\\r\\n".encode())
    while not sock.recv(4096).endswith(b"\\r\\n\\r\\n"):
        pass
    return sock

def secure(host):
    return context.wrap_socket(tunnel(host), server_hostname=host)

ahead = secure("api.example.com")  # and is not needed then
used = secure("api.example.com")
used.sendall(b"GET / HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n")
assert used.recv(4096).startswith(b"HTTP/1.1 200")
ahead.close()
secure("silent.example.com").close()
half = tunnel("half.example.com")
coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    context.wrap_bio(coming, going, server_hostname="half.example.com").do_handshake()
except ssl.SSLWantReadError:
    half.sendall(going.read())
assert half.recv(1)
half.close()
"""


def test_connections_opened_ahead_are_no_distrust(paced, network, run, python):
    """What ends without a request counts only for hosts of which no request ever came."""
    program = run.folder / "connections.py"
    program.write_text(CONNECTIONS)
    limits = [f"https://{name}.example.com=10/s" for name in ("silent", "half")]
    options = [word for limit in limits for word in ("--limit", limit)]
    ended, figures = paced(python, program, limit=LIMIT, options=options)
    assert ended.code == 0, ended.err
    found = figures["gateway"]["untrusted"]
    assert found == {"silent.example.com": 1, "half.example.com": 1}
    closed = ", ".join(f"1 connection to {host}" for host in found)
    assert UNTRUSTED.format(closed) in ended.words


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_program_that_came_for_another_port(paced, network):
    """It uses the proxy: nothing says that it ignores it."""
    limits = ["https://api.example.com:8443", "https://other.example.com"]
    ended, _ = paced(
        *("curl", "-sS", "https://api.example.com/"),
        limit=f"{limits[0]}=1/s",
        options=["--limit", f"{limits[1]}=1/s"],
    )
    assert ended.code == 0, ended.err
    assert "no call matched a limit. Connections to api.example.com were" in ended.words
    assert "HTTPS_PROXY" not in ended.words.partition("ended after")[2]


def test_hook_alone_is_no_alarm(paced, network, run, python):
    """All calls were paced by the hook, as to an endpoint on this host: nothing came otherwise."""
    program = run.script("calls(2)")
    ended, figures = paced("bash", "-c", f"{python} {program}")
    assert ended.code == 0, ended.err
    assert calls_of(figures) == {"ec2.DescribeSnapshots": 2}
    assert figures["gateway"]["connections"] == 0
    assert "reached the local proxy" not in ended.words
    assert "no call" not in ended.words
