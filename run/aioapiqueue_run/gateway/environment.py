"""The environment variables that make programs use the gateway, and trust it.

docs/gateway.md lists the programs that were tried with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue_run.gateway.aws_hosts import intercepted_domains
from aioapiqueue_run.gateway.trust import AWS_BUNDLE, BUNDLE_VARIABLES, names_aws_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DIRECT", "METADATA", "environment_of", "write_marked"]

GATEWAY_VARIABLE = "AIOAPIQUEUE_GATEWAY"
"""The address of the gateway for the hook in Node.js, even if the program changes HTTPS_PROXY."""
MARK_VARIABLE = "AIOAPIQUEUE_MARK"
"""The secret that the hook in Python adds to requests that had their turn, so that none waits
twice."""
_MARKED = "marked"
"""The file with the domains and labels by which the hook knows the hosts to add the mark for. In
the environment, the names of all services would be copied to every process of the program."""

_PROXY = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
_NO_PROXY = ("NO_PROXY", "no_proxy")
METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254")
"""The sources of credentials for instances, containers and pods, which are no API with a quota.

An isolated program may reach them, although they have no name."""
DIRECT = ("localhost", "127.0.0.1", "::1", *METADATA)
"""The hosts that programs connect to without the gateway."""
_NODE_HOOK = Path(__file__).with_name("node_hook.cjs")


def environment_of(
    environ: Mapping[str, str],
    *,
    port: int,
    token: str,
    mark: str,
    bundle: str,
) -> dict[str, str]:
    """Return the variables to add to `environ`, or to replace in it.

    Args:
        environ: the program's environment without them.
        port: the gateway's port.
        token: the gateway's password.
        mark: the secret in requests for which our hook in Python has asked the hub.
        bundle: the path of the certificates that the program should trust.
    """
    found = dict.fromkeys(_PROXY, f"http://run:{token}@127.0.0.1:{port}")
    # The user's value is not kept: ".amazonaws.com" in it would switch off the pacing. The gateway
    # itself follows it when it connects to servers.
    found |= dict.fromkeys(_NO_PROXY, ",".join(DIRECT))
    found |= dict.fromkeys(BUNDLE_VARIABLES, bundle)
    if names_aws_bundle(environ):
        # Set only to replace the user's, because the AWS SDK for Go fails if it is set and the
        # program brings an HTTP client of its own, as rclone does.
        found[AWS_BUNDLE] = bundle
    # Within quotes, Node.js takes the character after a backslash as it is: an escape such as
    # `\u00e9` would become `u00e9`.
    hook = f"--require {json.dumps(str(_NODE_HOOK), ensure_ascii=False)}"
    found["NODE_OPTIONS"] = f"{environ.get('NODE_OPTIONS', '')} {hook}".strip()
    found[GATEWAY_VARIABLE] = found["HTTPS_PROXY"]
    found[MARK_VARIABLE] = mark
    return found


def write_marked(folder: Path, not_intercepted: Sequence[str] | None) -> None:
    """Write the hosts to mark requests for to a file, which the hook finds beside the hub's socket.

    Args:
        folder: the private directory of the hub.
        not_intercepted: the labels of AWS's hosts that are not intercepted; None if no host is.
    """
    # The hook marks requests to intercepted hosts only: any other server would see the secret, and
    # the gateway would not remove it.
    words = [] if not_intercepted is None else [*intercepted_domains(), *not_intercepted]
    (folder / _MARKED).write_text(" ".join(words))
