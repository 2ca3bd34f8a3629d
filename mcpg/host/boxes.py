"""Which machine this is, for control planes that share a database. Called by mcpg/server.py."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from mcpg.host.processes import boot_id


def this_machine() -> str:
    """
    Its id and its host name, the same for all processes here and after a restart. Containers of one image may share the
    id, not the name. Where there is no id, it is that of the boot.
    """
    found = ""
    with suppress(OSError, ValueError):
        found = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    return f"{found or boot_id()}/{socket.gethostname()}"
