"""What programs need in their environment to come to the gateway, and to trust it.

Each row of docs/run.md's table of programs is because of one of these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.gateway.aws_hosts import intercepted_domains
from aioapiqueue.gateway.trust import AWS_BUNDLE, BUNDLE_VARIABLES, names_aws_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DIRECT", "METADATA", "environment_of"]

GATEWAY_VARIABLE = "AIOAPIQUEUE_GATEWAY"
"""Where the hook in Node.js sends requests, whatever becomes of HTTPS_PROXY."""
MARK_VARIABLE = "AIOAPIQUEUE_MARK"
"""What the hook in Python adds to requests that have had their turn, so that none has two."""

_PROXY = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
_NO_PROXY = ("NO_PROXY", "no_proxy")
# Where credentials of instances, containers and pods come from: no quota of AWS's.
METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254")
"""What an isolated program reaches though it has no name."""
DIRECT = ("localhost", "127.0.0.1", "::1", *METADATA)
"""What programs connect to without the gateway."""
_NODE_HOOK = Path(__file__).with_name("node_hook.cjs")


def environment_of(
    environ: Mapping[str, str],
    *,
    port: int,
    token: str,
    mark: str,
    bundle: str,
    not_intercepted: Sequence[str] | None,
) -> dict[str, str]:
    """Return the variables that a program gets beside those of `environ`, or in their place.

    Args:
        environ: what it would get without them.
        port: at which the gateway listens.
        token: the gateway's password.
        mark: by which the gateway knows what our hook in Python has asked for.
        bundle: the path of the certificates that the program is to trust.
        not_intercepted: labels of the hosts of AWS that are not intercepted; None: no host is.
    """
    found = dict.fromkeys(_PROXY, f"http://run:{token}@127.0.0.1:{port}")
    # Never the user's: ".amazonaws.com" in it would switch everything off. The gateway keeps to it.
    found |= dict.fromkeys(_NO_PROXY, ",".join(DIRECT))
    found |= dict.fromkeys(BUNDLE_VARIABLES, bundle)
    if names_aws_bundle(environ):
        # Only in its place: the SDK for Go refuses it beside an HTTP client of the program's own.
        found[AWS_BUNDLE] = bundle
    # Node.js takes a backslash away, so that none may stand for a letter.
    hook = f"--require {json.dumps(str(_NODE_HOOK), ensure_ascii=False)}"
    found["NODE_OPTIONS"] = f"{environ.get('NODE_OPTIONS', '')} {hook}".strip()
    found[GATEWAY_VARIABLE] = found["HTTPS_PROXY"]
    # Only requests to what is intercepted are marked: other servers would see the mark.
    intercepted = [] if not_intercepted is None else [*intercepted_domains(), *not_intercepted]
    found[MARK_VARIABLE] = " ".join([mark, *intercepted])
    return found
