"""Which certificates the user's programs trust, so that the gateway can verify for them.

The variables for it replace what is trusted. So programs get one file that has both: what they have
trusted so far, and the authority of the run. The gateway itself trusts only the former.
"""

from __future__ import annotations

import configparser
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.gateway.isolate import SYSTEM_BUNDLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["AWS_BUNDLE", "BUNDLE_VARIABLES", "context_for", "names_aws_bundle", "trusted_by_user"]

AWS_BUNDLE = "AWS_CA_BUNDLE"
"""Of botocore, the AWS CLI and other SDKs; all of them follow another variable without it."""
_ALSO = (
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
)
"""Each names a file that is trusted beside what a program has."""
_INSTEAD = (
    "SSL_CERT_FILE",  # OpenSSL, Go on Linux, httpx, rustls
    "REQUESTS_CA_BUNDLE",  # requests, botocore, the AWS CLI
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PERL_LWP_SSL_CA_FILE",
    "HTTPLIB2_CA_CERTS",  # and so Google's client in Python
)
"""Each names a file that replaces what a program trusts."""
BUNDLE_VARIABLES = (*_INSTEAD, *_ALSO)
"""What programs get."""

_PROFILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
}
"""By the variable that names another: files with profiles."""

_PATIENCE = 5.0  # seconds for git, which takes some milliseconds


class NoTrustError(ValueError):
    """Raised where no certificate is found that anything could be verified with."""


def trusted_by_user(environ: Mapping[str, str]) -> str:
    """Return what the user's programs trust, as PEM: of the system, and what variables name.

    Args:
        environ: the user's environment.

    Raises:
        NoTrustError: there is nothing, or a file that is named cannot be read.
    """
    found: dict[str, None] = {}
    extra = {*(environ.get(name) for name in _ALSO), *_configured_for_git(environ)}
    for path in dict.fromkeys(_files(environ)):
        try:
            text = Path(path).read_text("utf-8", "replace")
        except OSError as error:
            named = [name for name in (AWS_BUNDLE, *_INSTEAD) if environ.get(name) == path]
            if not named and path in extra:
                continue  # of which Node.js itself only warns, and git fails alone
            why = f"{' and '.join(named)}: " if named else ""
            raise NoTrustError(f"{why}{path}: {error.strerror}") from None
        found |= dict.fromkeys(_certificates(text))
    if not found:
        raise NoTrustError(
            "no CA certificates are installed, so no server can be verified: install "
            "ca-certificates, or set SSL_CERT_FILE to a file of CA certificates"
        )
    return "".join(found)


def context_for(trusted: str) -> ssl.SSLContext:
    """Return what verifies servers by the given certificates."""
    context = ssl.create_default_context(cadata=trusted)
    # As almost all programs do; many companies have authorities that are not strictly right.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    return context


def names_aws_bundle(environ: Mapping[str, str]) -> bool:
    """Return whether AWS's SDKs are given a bundle of their own, which must be replaced then.

    By the environment, or by a profile, whichever: the program may choose another than is named.

    Args:
        environ: the user's environment.
    """
    return bool(environ.get(AWS_BUNDLE) or _bundles_of_profiles(environ))


def _files(environ: Mapping[str, str]) -> Iterator[str]:
    for name in (AWS_BUNDLE, *BUNDLE_VARIABLES):
        yield from _inside(environ.get(name, ""))
    yield from _inside(_configured(environ))
    yield from _configured_for_git(environ)
    # In any case: boto3, Node.js and GnuTLS have lists of their own, which SSL_CERT_FILE does not
    # replace. All files: an isolated program sees ours in the place of each.
    system = (ssl.get_default_verify_paths().openssl_cafile, *SYSTEM_BUNDLES)
    yield from (path for path in system if os.path.isfile(path))  # noqa: PTH113 - a text


def _inside(path: str) -> list[str]:
    """Return a file, or those in a folder, which requests allows."""
    if not path or not os.path.isdir(path):  # noqa: PTH112 - a text
        return [path] if path else []
    return sorted(str(one) for one in Path(path).iterdir() if one.suffix in {".pem", ".crt", ".0"})


def _configured(environ: Mapping[str, str]) -> str:
    """Return the `ca_bundle` of the profile, which AWS_CA_BUNDLE replaces."""
    if environ.get(AWS_BUNDLE):
        return ""
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    found = _bundles_of_profiles(environ).get(profile, "")
    return os.path.expanduser(found)  # noqa: PTH111 - as botocore does


def _bundles_of_profiles(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the `ca_bundle` of each profile that has one, by its name.

    In ~/.aws/config and ~/.aws/credentials: of a profile that is in both, the latter counts.
    """
    found: dict[str, str] = {}
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


def _configured_for_git(environ: Mapping[str, str]) -> list[str]:
    """Return the `http.sslCAInfo` of git's configuration, which GIT_SSL_CAINFO replaces."""
    git = shutil.which("git", path=environ.get("PATH", ""))
    if git is None or environ.get("GIT_SSL_CAINFO"):
        return []
    asks = [git, "config", "--null", "--type=path", "--get-regexp", r"^http\.(.*\.)?sslcainfo$"]
    try:
        done = subprocess.run(  # noqa: S603 - the user's own git
            asks, env=environ, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    entries = os.fsdecode(done.stdout).split("\0")[:-1]  # each a name, and a line with its value
    return [path for entry in entries if (path := entry.partition("\n")[2])]


def _certificates(text: str) -> Iterator[str]:
    """Yield each certificate in a file, which may have comments between them."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    for part in text.split(begin)[1:]:
        body, found, _ = part.partition(end)
        if found:
            yield f"{begin}\n{body.strip()}\n{end}\n"
