"""What an agent has stored, for `mcpg-ctl gateway-status`. Reads files only, and creates none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcpg import errors
from mcpg.agent import credentials, lkg


def status(state_dir: Path) -> dict[str, Any]:
    """
    What is stored, for `gateway-status`: plain JSON, times RFC 3339, None where nothing is known, never a secret.

    Works with nothing stored. What cannot be read is a sentence in `problems` and not an error, because a status is
    most wanted when something is broken.
    """
    problems: list[str] = []

    def tried(reader: Any, *args: Any) -> Any:
        try:
            return reader(*args)
        except errors.StateDir as error:
            problems.append(f"{error.what}: {error.cause}" if error.cause else error.what)
            return None

    creds = tried(credentials.read, state_dir)
    enrolment = tried(credentials.read_json, credentials.enrolment_path(state_dir)) or {}
    good = tried(lkg.read, credentials.agent_dir(state_dir))
    expires_at = creds.expires_at if creds else None
    return {
        "enrolled": creds is not None,
        "state_dir": str(state_dir),
        "instance_id": creds.instance_id if creds else None,
        "instance_uid": enrolment.get("instance_uid"),
        "registered_at": enrolment.get("registered_at"),
        "issued_at": creds.issued_at if creds else None,
        "expires_at": None if expires_at is None else credentials.rfc3339(expires_at),
        "endpoint": tried(credentials.read_pairing, state_dir),
        "lkg": {"config_hash": good.config_hash, "written_at": good.written_at} if good else None,
        "problems": problems,
    }
