"""Programs that read no variable for certificates (GnuTLS), and those that variables break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.aws_programs import calls_of

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


@pytest.mark.parametrize("named", ["", "environment", "profile"])
def test_bundle_of_aws_only_where_the_user_has_one(paced, network, run, tmp_path, named):
    """Programs in Go that have an HTTP client of their own (rclone) refuse AWS_CA_BUNDLE."""
    file = tmp_path / "company.pem"
    config = run.folder / "config"
    config.write_text("[default]\nregion = x\n[profile other]\n")
    environment = {"AWS_CONFIG_FILE": str(config)}
    if named == "environment":
        environment["AWS_CA_BUNDLE"] = str(file)
    elif named == "profile":
        with config.open("a") as text:
            text.write(f"ca_bundle = {file}\n")
    script = "import os; print(os.environ.get('AWS_CA_BUNDLE', 'none'))"
    ended, _ = paced(sys.executable, "-c", script, env=environment)
    given = ended.out.decode().strip()
    assert (given == "none") == (not named)
    assert given.endswith("/ca-bundle.pem") == bool(named)


@needs_namespaces
@needs_wget
def test_isolated_program_trusts_by_the_systems_file(paced, network):
    """GnuTLS reads no variable: the run's certificates are in place of the system's."""
    arguments = ("wget", "-qO-", "https://ec2.us-east-1.amazonaws.com/?Action=DescribeVolumes")
    ended, figures = paced(*arguments, options=("--isolate",))
    assert (ended.code, ended.out) == (0, b"{}"), ended.err
    assert calls_of(figures) == {"ec2.DescribeVolumes": 1}


@needs_namespaces
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="becomes another user")
def test_other_users_can_read_the_certificates(paced, network):
    """A program of root's may become another user, as package managers do."""
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    arguments = ("setpriv", "--reuid", "65534", "--clear-groups", "grep", "-c", "BEGIN", bundle)
    ended, _ = paced(*arguments, options=("--isolate",))
    assert ended.code == 0, ended.err
    assert int(ended.out) > 50
