"""
What a gateway is told when it starts: its environment, and for the real gateway a block of its boot file.

The enrolment URL is a secret. It goes where only its user can read it, the 0600 boot file or the environment, and never
on argv, which `ps` shows to everybody.
"""

from __future__ import annotations

import os
from typing import Final

from mcpg.engine.ports import Order
from mcpg.host.binary import Gateway
from mcpg.host.processes import MARKER
from mcpg.provisioners.replica import Replica

# Enough to find programs, people's language and the way out; nothing of the control plane's own.
_INHERITED: Final = frozenset(
    ["PATH", "HOME", "USER", "LOGNAME", "HOSTNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"]
)
_PROXIES: Final = frozenset(["http_proxy", "https_proxy", "no_proxy", "all_proxy"])


def control_plane(
    order: Order, replica: Replica, gateway: Gateway, grpc_url: str, enrolment_url: str
) -> dict[str, str]:
    """`gateway.control_plane` of the boot file (agent.md §2); empty for our own agent, whose environment says it."""
    if gateway.kind == "own":
        return {}
    return {
        "url": grpc_url,
        "enrollment_url": enrolment_url,
        "instance_uid": order.uid_of(replica.number),
        "state_dir": str(replica.agent_dir),
    }


def environment(order: Order, replica: Replica, gateway: Gateway, grpc_url: str, enrolment_url: str) -> dict[str, str]:
    """The whole environment of the process; a config that refers to other variables does not find them."""
    env = {key: value for key, value in os.environ.items() if _is_inherited(key)}
    env.setdefault("PATH", os.defpath)
    env |= {
        MARKER: replica.marker,
        "MCPG_CONFIG": str(replica.boot_file),
        "MCPG_STATE_DIR": str(replica.directory),
    }
    if gateway.kind == "own":
        env |= {
            "MCPG_ENROLLMENT_URL": enrolment_url,
            "MCPG_CP_GRPC": grpc_url,
            "MCPG_INSTANCE_UID": order.uid_of(replica.number),
        }
        if path := os.environ.get("PYTHONPATH"):  # a checkout that is not installed
            env["PYTHONPATH"] = path
    return env


def _is_inherited(key: str) -> bool:
    return key in _INHERITED or key.lower() in _PROXIES or key.startswith("LC_")
