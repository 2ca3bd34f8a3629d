"""
What to send of the stored login with a request, renewed when it is about to end. Called by inputs.py and the doctor.

Only a token that is about to end loads oidc.py, and with it the network.
"""

from __future__ import annotations

import time
from pathlib import Path

from mcpg.cli import render
from mcpg.cli.credentials import Credential, Stored, load, locked, path, rfc3339, save, sign_in
from mcpg.errors import McpgError

RENEW_BELOW_S = 60


def credential(state_dir: Path, *, renew: bool = True) -> Credential | None:
    """
    The stored login; None when there is none. It is renewed when it is about to end, unless *renew* says to only look.

    Raises NotSignedIn for a file that others can read, that cannot be read, or that is none.
    """
    stored = load(state_dir)
    if stored is None:
        return None
    stored, trouble = _renewed(state_dir, stored) if renew else (stored, "")
    where = path(state_dir)
    headers = {"authorization": f"Bearer {stored.id_token}"}
    if stored.license_jwt:
        headers["x-mcpg-license"] = stored.license_jwt
    return Credential(where, headers, _words(stored, trouble), sign_in(stored.issuer))


def _words(stored: Stored, trouble: str) -> str:
    words, now = f"the stored login of {stored.identity}", time.time()
    if stored.expires_at is not None and stored.expires_at <= now:
        words += f", expired {render.ago(rfc3339(stored.expires_at), now)}"
    return f"{words}, not renewed: {trouble}" if trouble else words


def _renewed(state_dir: Path, stored: Stored) -> tuple[Stored, str]:
    """
    *stored* with at least a minute left, and why not otherwise. A refusal is no error: the server may still take it.

    Refresh tokens are good for one use, so one command renews at a time, and who waited for it takes what it brought.
    """
    if not _is_due(stored):
        return stored, ""
    try:
        with locked(state_dir):
            stored = load(state_dir) or stored
            if not _is_due(stored):
                return stored, ""
            from mcpg.cli import oidc

            stored = oidc.renew(stored)
            save(state_dir, stored)
    except McpgError as exc:
        return stored, f"{exc.what}: {exc.cause}" if exc.cause else exc.what
    except OSError as exc:
        return stored, f"{state_dir}: {exc.strerror or exc}"
    return stored, ""


def _is_due(stored: Stored) -> bool:
    ends = stored.expires_at
    return stored.is_renewable and (ends is None or ends - time.time() <= RENEW_BELOW_S)
