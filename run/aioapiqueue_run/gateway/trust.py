"""Finds the certificates that the user's programs trust.

Most variables for this replace what a program trusts. So programs get a file with both: the
certificates that they have trusted so far, and the run's own. The gateway verifies servers by the
former only.
"""

from __future__ import annotations

import configparser
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue_run.gateway.isolate import SYSTEM_BUNDLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["AWS_BUNDLE", "BUNDLE_VARIABLES", "context_for", "names_aws_bundle", "trusted_by_user"]

AWS_BUNDLE = "AWS_CA_BUNDLE"
"""The variable of AWS's SDKs and CLI. Without it, most of them follow another variable."""
_ADDING = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""Variables with a file of certificates that a program trusts in addition to its own."""
_REPLACING = (
    "SSL_CERT_FILE",  # OpenSSL, Go on Linux, httpx, rustls
    "REQUESTS_CA_BUNDLE",  # requests, botocore, the AWS CLI
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PERL_LWP_SSL_CA_FILE",
    "HTTPLIB2_CA_CERTS",  # also Google's client in Python
)
"""Variables with a file of certificates that a program trusts instead of its own."""
BUNDLE_VARIABLES = (*_REPLACING, *_ADDING)
"""The variables that are always set for programs."""

_PROFILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
}
"""The files with profiles, by the variable that names another file."""

_GIT_SECONDS = 5.0  # git takes some milliseconds


def trusted_by_user(environ: Mapping[str, str]) -> str:
    """Return the certificates that the user's programs trust, as PEM.

    These are the system's, and those in files that variables, profiles or git's configuration name.

    Args:
        environ: the user's environment.

    Raises:
        ValueError: there are none, or a named file cannot be read.
    """
    found: dict[str, None] = {}
    optional = {*(environ.get(name) for name in _ADDING), *_git_bundles(environ)}
    for path in dict.fromkeys(_files(environ)):
        try:
            text = Path(path).read_text("utf-8", "replace")
        except OSError as error:
            named = [name for name in (AWS_BUNDLE, *_REPLACING) if environ.get(name) == path]
            if not named and path in optional:
                continue  # Node.js only warns about it, and git alone fails
            why = f"{' and '.join(named)}: " if named else ""
            raise ValueError(f"{why}{path}: {error.strerror}") from None
        found |= dict.fromkeys(_certificates(text))
    if not found:
        raise ValueError(
            "no CA certificates are installed, so no server can be verified: install "
            "ca-certificates, or set SSL_CERT_FILE to a file of CA certificates"
        )
    return "".join(found)


def context_for(trusted: str) -> ssl.SSLContext:
    """Return a TLS context that verifies servers by the given certificates."""
    context = ssl.create_default_context(cadata=trusted)
    # Python 3.13 made this the default, but most programs do not check it, and the certificates of
    # many companies' authorities would fail.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    return context


def names_aws_bundle(environ: Mapping[str, str]) -> bool:
    """Return whether the user has given AWS's SDKs a bundle, which must be replaced then.

    Args:
        environ: the user's environment.
    """
    # Any profile counts, because the program may choose another one than the environment names.
    return bool(environ.get(AWS_BUNDLE) or _profile_bundles(environ))


def _files(environ: Mapping[str, str]) -> Iterator[str]:
    for name in (AWS_BUNDLE, *BUNDLE_VARIABLES):
        yield from _files_at(environ.get(name, ""))
    yield from _files_at(_profile_bundle(environ))
    yield from _git_bundles(environ)
    # Even if SSL_CERT_FILE is set, because boto3, Node.js and GnuTLS trust the system's or their
    # own certificates anyway. All files of the system, because `isolate.py` mounts our file over
    # each of them: what only one of them contains would be missing.
    system = (ssl.get_default_verify_paths().openssl_cafile, *SYSTEM_BUNDLES)
    yield from (path for path in system if os.path.isfile(path))  # noqa: PTH113 - a text


def _files_at(path: str) -> list[str]:
    """Return the path itself, or the certificates in it if it is a folder."""
    # requests accepts a folder, too.
    if not path or not os.path.isdir(path):  # noqa: PTH112 - a text
        return [path] if path else []
    return sorted(str(one) for one in Path(path).iterdir() if one.suffix in {".pem", ".crt", ".0"})


def _profile_bundle(environ: Mapping[str, str]) -> str:
    """Return the `ca_bundle` of the current profile; "" if AWS_CA_BUNDLE overrides it."""
    if environ.get(AWS_BUNDLE):
        return ""
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    found = _profile_bundles(environ).get(profile, "")
    return os.path.expanduser(found)  # noqa: PTH111 - as botocore does


def _profile_bundles(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the `ca_bundle` of each profile that has one, by the profile's name."""
    found: dict[str, str] = {}
    # The order matters: of a profile in both files, botocore uses the one in ~/.aws/credentials.
    for variable, usual in _PROFILES.items():
        path = environ.get(variable) or usual
        config = configparser.RawConfigParser(strict=False)
        try:
            config.read(os.path.expanduser(path))  # noqa: PTH111 - as botocore does
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in config.sections():
            bundle = config.get(section, "ca_bundle", fallback="")
            if bundle:
                found[section.removeprefix("profile ").strip()] = bundle
    return found


def _git_bundles(environ: Mapping[str, str]) -> list[str]:
    """Return the files that git's `http.sslCAInfo` names; none if GIT_SSL_CAINFO overrides them."""
    git = shutil.which("git", path=environ.get("PATH", ""))
    if git is None or environ.get("GIT_SSL_CAINFO"):
        return []
    command = [git, "config", "--null", "--type=path", "--get-regexp", r"^http\.(.*\.)?sslcainfo$"]
    try:
        done = subprocess.run(  # noqa: S603 - the user's own git
            command, env=environ, capture_output=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    entries = os.fsdecode(done.stdout).split("\0")[:-1]  # each a name, and a line with its value
    return [path for entry in entries if (path := entry.partition("\n")[2])]


def _certificates(text: str) -> Iterator[str]:
    """Yield each certificate in a text, without comments between them."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    for part in text.split(begin)[1:]:
        body, found, _ = part.partition(end)
        if found:
            yield f"{begin}\n{body.strip()}\n{end}\n"
