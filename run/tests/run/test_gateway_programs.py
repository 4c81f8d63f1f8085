"""Programs as Debian and npm have them, which call AWS and GitHub: what `nox -s slow` installs.

The server has a host of its own, without a proxy on the way. The system's store of certificates
knows its authority, as it knows those of real servers, so that all programs but Java's work without
`run`. Where that host cannot be made, these tests are skipped and say why.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.aws_programs import calls_of
from tests.helpers.signed_aws import Answered

pytestmark = [pytest.mark.slow, pytest.mark.real]

STORE = Path("/etc/ssl/certs/ca-certificates.crt")
GITHUB = "https://api.github.com"
BUCKET = "bkt1.s3.eu-west-1.amazonaws.com"
INTERVAL = 0.2  # seconds, of 5/s
LATE = 0.1  # seconds by which a busy machine may hold up the first call


def needs(program):
    """Skip a test where a program is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


@pytest.fixture
def server(run, outside, tmp_path, monkeypatch):
    """Give the server; the system's store has its authority, and no variable names one."""
    store = tmp_path / "store.pem"
    store.write_bytes(STORE.read_bytes() + Path(outside.environment["SSL_CERT_FILE"]).read_bytes())
    del outside.environment["SSL_CERT_FILE"]
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    found_by = outside.network.seen_by
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    run.within = lambda command: found_by(["sh", "-c", script, store, STORE, *command])
    return outside.aws


def assert_rate(server, number, *, host=None):
    """So many calls came, none before 5/s allow it: each may be late, as the first one may."""
    times = sorted(one.at for one in server.arrivals if host in {None, one.host})
    assert len(times) == number
    for position, at in enumerate(times):
        assert at - times[0] >= position * INTERVAL - LATE, position


def assert_nothing_wrong(ended):
    """The run ended well, and reported no problem."""
    assert ended.code == 0, ended.err
    for words in ("WARNING", "ignores HTTPS_PROXY", "reached the local proxy", "does not trust"):
        assert words not in ended.words


def assert_distrusted(ended, host):
    """The end of the run says so, and nothing of proxies that are ignored."""
    for words in ("ignores HTTPS_PROXY", "no request to"):
        assert words not in ended.words
    assert f"{host}: " in ended.words
    assert "does not trust the proxy's certificate" in ended.words


def script(run, text):
    """Write a shell script, which ends at the first command that fails, and return its path."""
    path = run.folder / "program.sh"
    path.write_text(f"set -e\n{text}\n")
    return path


def six_times(command):
    """Shell commands that run one six times at once, and fail if one of them does."""
    return f"for i in $(seq 6); do {command} & done; for one in $(jobs -p); do wait $one; done"


class Bucket:
    """Answers as S3 does for one bucket."""

    def __init__(self):
        self.objects = {}

    def __call__(self, arrival):
        """Keep an object, give one's head, or list none."""
        key, _, query = arrival.target.partition("?")
        if "list-type=2" in query:
            return Answered(200, b"<ListBucketResult/>", (("Content-Type", "application/xml"),))
        if arrival.method == "PUT":
            self.objects[key] = arrival
        if (found := self.objects.get(key)) is None:
            return Answered(404)
        tag = ("ETag", f'"{hashlib.md5(found.body).hexdigest()}"')  # noqa: S324 - S3's own
        date = ("Last-Modified", "Sun, 29 Nov 2026 12:00:00 GMT")
        meta = [one for one in found.headers.items() if one[0].startswith("x-amz-meta-")]
        body = found.body if arrival.method == "HEAD" else b""  # of which only the length is sent
        return Answered(200, body, (tag, date, *meta))


@needs("rclone")
@pytest.mark.parametrize("option", ["--any", "--isolate"])
def test_rclone(paced_outside, server, run, option):
    """It gives the SDK for Go an HTTP client of its own. Six files, each signature right."""
    server.answer = Bucket()
    folder = run.folder / "files"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.txt").write_text(str(number))
    to = ":s3,provider=AWS,env_auth,region=eu-west-1,force_path_style=false,no_check_bucket:bkt1/x"
    ended, figures = paced_outside(
        *("rclone", "--config=/dev/null", "copy", folder, to),
        limit="s3=5/s",
        options=(option,),
    )
    assert_nothing_wrong(ended)
    assert {one.host for one in server.arrivals} == {BUCKET}
    assert not server.wrong
    calls = calls_of(figures)
    assert calls["s3.PutObject"] == 6
    assert_rate(server, sum(calls.values()))


@needs("wget")
def test_wget(paced_outside, server, run):
    """It takes certificates from the system's store alone, which is the run's when isolated."""
    program = script(run, six_times(f"wget -q -O- {GITHUB}/$i"))
    ended, figures = paced_outside("bash", program, limit=f"{GITHUB}=5/s", options=("--isolate",))
    assert_nothing_wrong(ended)
    assert ended.out == b"{}" * 6
    assert_rate(server, 6)
    assert calls_of(figures) == {f"{GITHUB}.GET": 6}


@needs("wget")
def test_wget_that_is_not_isolated(paced_outside, server, run):
    """It does not trust the gateway, which the end of the run says; told to, it is paced."""
    program = script(run, f"wget -q -O- {GITHUB}/1")
    ended, _ = paced_outside("bash", program, limit=f"{GITHUB}=5/s")
    assert ended.code == 5
    assert_distrusted(ended, "api.github.com")
    assert not server.arrivals

    program = script(run, six_times(f'wget -q -O- --ca-certificate="$SSL_CERT_FILE" {GITHUB}/$i'))
    ended, _ = paced_outside("bash", program, limit=f"{GITHUB}=5/s")
    assert_nothing_wrong(ended)
    assert_rate(server, 6)


@needs("wget")
@pytest.mark.parametrize("option", ["--any", "--isolate"])
def test_host_that_no_limit_concerns(paced_outside, server, run, option):
    """A program that fetches something from S3 under EC2's limit works as without `run`."""
    program = script(run, six_times(f"wget -q -O- https://{BUCKET}/$i"))
    ended, figures = paced_outside("bash", program, limit="ec2=5/s", options=(option,))
    assert ended.code == 0, ended.err
    for words in ("does not trust", "ignores HTTPS_PROXY", "no call to AWS"):
        assert words not in ended.words
    assert len(server.arrivals) == 6
    assert figures["gateway"]["passed_by"] == {BUCKET: 6}


def line(text):
    """A line as git's protocol frames it."""
    return f"{len(text) + 5:04x}{text}\n".encode()


def refs_of_repository(_):
    """Answer what `git ls-remote` asks for."""
    begun = line("# service=git-upload-pack") + b"0000"
    refs = line(f"{'1' * 40} HEAD\0agent=git/2") + line(f"{'1' * 40} refs/heads/main") + b"0000"
    kind = ("Content-Type", "application/x-git-upload-pack-advertisement")
    return Answered(200, begun + refs, (kind,))


@needs("git")
@pytest.mark.parametrize("option", ["--any", "--isolate"])
def test_git(paced_outside, server, run, option):
    """It is linked with GnuTLS, as wget is, but has a variable for certificates."""
    server.answer = refs_of_repository
    program = script(run, six_times("git ls-remote -q https://github.com/o/r"))
    ended, figures = paced_outside(
        "bash", program, limit="https://github.com=5/s", options=(option,)
    )
    assert_nothing_wrong(ended)
    assert ended.out.count(b"refs/heads/main") == 6
    assert_rate(server, 6, host="github.com")
    assert calls_of(figures) == {"https://github.com.GET": 6}


PHP = """<?php
for ($i = 0; $i < 6; $i++) {
    $curl = curl_init("https://api.github.com/$i");
    curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
    if (curl_exec($curl) === false) {
        fwrite(STDERR, curl_error($curl) . "\\n");
        exit(1);
    }
    echo curl_getinfo($curl, CURLINFO_RESPONSE_CODE), "\\n";
}
"""


@pytest.fixture
def php(run):
    """Write a program, and return it."""
    if shutil.which("php") is None or b"curl" not in subprocess.check_output(["php", "-m"]):  # noqa: S607
        pytest.skip("needs php-cli and php-curl")
    path = run.folder / "calls.php"
    path.write_text(PHP)
    return path


def test_php(paced_outside, server, php):
    """Its curl reads no variable, but the system's store, which is the run's when isolated."""
    ended, figures = paced_outside("php", php, limit=f"{GITHUB}=5/s", options=("--isolate",))
    assert_nothing_wrong(ended)
    assert ended.out == b"200\n" * 6
    assert_rate(server, 6)
    assert calls_of(figures) == {f"{GITHUB}.GET": 6}


def test_php_that_is_not_isolated(paced_outside, server, run, php):
    """It does not trust the gateway, which the end of the run says; told to, it is paced."""
    ended, _ = paced_outside("php", php, limit=f"{GITHUB}=5/s")
    assert ended.code == 1
    assert_distrusted(ended, "api.github.com")
    assert not server.arrivals

    told = script(run, f'php -d curl.cainfo="$SSL_CERT_FILE" {shlex.quote(str(php))}')
    ended, _ = paced_outside("bash", told, limit=f"{GITHUB}=5/s")
    assert_nothing_wrong(ended)
    assert_rate(server, 6)


JAVA = """
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

class Calls {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            var uri = URI.create("https://api.github.com/" + i);
            var request = HttpRequest.newBuilder(uri).build();
            System.out.println(client.send(request, BodyHandlers.ofString()).statusCode());
            var older = (HttpURLConnection) uri.toURL().openConnection();
            System.out.println(older.getResponseCode());
        }
    }
}
"""


def trusting(run, program):
    """Write the script that docs/gateway.md has for Java, for a program, and return its path."""
    page = Path(__file__).parents[3] / "docs" / "gateway.md"
    (text,) = re.findall(r"```sh\n((?:(?!```).)*keytool.*?)```", page.read_text(), re.DOTALL)
    return script(run, text.replace("-jar program.jar", shlex.quote(str(program))))


@pytest.fixture
def java(run):
    """Write a program; return its path, and where and with what to run it."""
    found = shutil.which("java")
    if found is None or shutil.which("keytool") is None:
        pytest.skip("needs a JDK")
    path = run.folder / "Calls.java"
    path.write_text(JAVA)
    home = {"JAVA_HOME": str(Path(found).resolve().parents[1])}
    return path, {"limit": f"{GITHUB}=5/s", "cwd": run.folder, "env": home}


def test_java(paced_outside, server, run, java):
    """It has a store of its own, so that it does not trust the gateway until it is told to."""
    path, where = java
    isolated = where | {"options": ("--isolate",)}
    ended, _ = paced_outside("java", path, **isolated)
    assert ended.code == 1
    assert_distrusted(ended, "api.github.com")
    assert not server.arrivals

    ended, figures = paced_outside("sh", trusting(run, path), **isolated)
    assert_nothing_wrong(ended)
    assert ended.out == b"200\n" * 6
    assert_rate(server, 6)
    assert calls_of(figures) == {f"{GITHUB}.GET": 6}


def test_java_that_is_not_isolated(paced_outside, server, run, java, tmp_path):
    """It asks for no proxy: the run says that nothing was paced, and how it would be."""
    path, where = java
    told = trusting(run, path)
    authority = shlex.quote(
        str(tmp_path / "authority.pem")
    )  # the server's, which it calls directly
    told.write_text(told.read_text().replace('"$SSL_CERT_FILE"', authority))
    ended, _ = paced_outside("sh", told, **where)
    assert ended.code == 3, ended.err
    assert ended.out == b"200\n" * 6
    assert "no call was paced" in ended.words
    assert "ignores HTTPS_PROXY: use --isolate" in ended.words
    assert len(server.arrivals) == 6
