"""The parts of the host hub that programs use, and those that the run hub shares with it."""

from aioapiqueue._shared.host.directory import HUB_DIR, HubLocation
from aioapiqueue._shared.host.reach import command, reach
from aioapiqueue._shared.host.session import Delay
from aioapiqueue._shared.hub_client import HubSocket, connect_to_hub, send_hello
from aioapiqueue._shared.hub_server import HubConnection, HubServer, raise_file_limit
from aioapiqueue._shared.local_sockets import check_system, listen, remove
from aioapiqueue._shared.outage import Unreachable

__all__ = [
    "HUB_DIR",
    "Delay",
    "HubConnection",
    "HubLocation",
    "HubServer",
    "HubSocket",
    "Unreachable",
    "check_system",
    "command",
    "connect_to_hub",
    "listen",
    "raise_file_limit",
    "reach",
    "remove",
    "send_hello",
]
