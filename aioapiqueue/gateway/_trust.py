"""Which certificates the user's programs trust, so that the gateway can verify for them.

The variables for it replace what is trusted. So programs get one file that has both: what they have
trusted so far, and the authority of the run. The gateway itself trusts only the former.
"""

from __future__ import annotations

import configparser
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["BUNDLE_VARIABLES", "NoTrustError", "context_for", "trusted_by_user"]

BUNDLE_VARIABLES = (
    "AWS_CA_BUNDLE",  # botocore, the AWS CLI, the SDKs for Go and others
    "SSL_CERT_FILE",  # OpenSSL, Go on Linux, httpx
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""Each names a file that replaces what a program trusts."""

_ALSO = "NODE_EXTRA_CA_CERTS"
_SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)


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
    for path in dict.fromkeys(_files(environ)):
        try:
            text = Path(path).read_text("utf-8", "replace")
        except OSError as error:
            named = [name for name in BUNDLE_VARIABLES if environ.get(name) == path]
            if not named and environ.get(_ALSO) == path:
                continue  # of which Node.js itself only warns
            why = f"{' and '.join(named)}: " if named else ""
            raise NoTrustError(f"{why}{path}: {error.strerror}") from None
        found |= dict.fromkeys(_certificates(text))
    if not found:
        raise NoTrustError(
            "no certificates of authorities are installed, so that no server could be verified: "
            "install ca-certificates, or name a file of them in SSL_CERT_FILE"
        )
    return "".join(found)


def context_for(trusted: str) -> ssl.SSLContext:
    """Return what verifies servers by the given certificates."""
    context = ssl.create_default_context(cadata=trusted)
    # As almost all programs do; many companies have authorities that are not strictly right.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    return context


def _files(environ: Mapping[str, str]) -> Iterator[str]:
    for name in (*BUNDLE_VARIABLES, _ALSO):
        yield from _inside(environ.get(name, ""))
    yield from _inside(_configured(environ))
    # In any case: boto3 and Node.js have lists of their own, which the variable does not replace.
    system = (*filter(None, (ssl.get_default_verify_paths().cafile,)), *_SYSTEM)
    yield from [path for path in system if os.path.isfile(path)][:1]  # noqa: PTH113 - a text


def _inside(path: str) -> list[str]:
    """Return a file, or those in a folder, which requests allows."""
    if not path or not os.path.isdir(path):  # noqa: PTH112 - a text
        return [path] if path else []
    return sorted(str(one) for one in Path(path).iterdir() if one.suffix in {".pem", ".crt", ".0"})


def _configured(environ: Mapping[str, str]) -> str:
    """Return the `ca_bundle` of the profile in ~/.aws/config, which AWS_CA_BUNDLE replaces."""
    if environ.get("AWS_CA_BUNDLE"):
        return ""
    path = environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    config = configparser.RawConfigParser(strict=False)
    try:
        config.read(os.path.expanduser(path))  # noqa: PTH111 - as botocore does
    except (configparser.Error, UnicodeDecodeError):
        return ""
    section = profile if profile == "default" else f"profile {profile}"
    found = config.get(section, "ca_bundle", fallback="")
    return os.path.expanduser(found) if found else ""  # noqa: PTH111 - as above


def _certificates(text: str) -> Iterator[str]:
    """Yield each certificate in a file, which may have comments between them."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    for part in text.split(begin)[1:]:
        body, found, _ = part.partition(end)
        if found:
            yield f"{begin}\n{body.strip()}\n{end}\n"
