"""Checks of what this user has stored for the command line: contexts, the login, the session."""

from __future__ import annotations

import shlex
import stat
import time
from pathlib import Path

from mcpg.cli import contexts, credentials, inputs, render
from mcpg.cli.checks.facts import Facts, Skip, Verdict, bad, good, note
from mcpg.errors import McpgError


def context(facts: Facts) -> Verdict:
    """Whether the stored contexts can be read, and the one in force is among them."""
    try:
        found = contexts.read(facts.state_dir)
        current = found.in_force(facts.asked_context)
        for name in found.stored:
            found.named(name)
    except McpgError as exc:
        return bad(f"{exc.what}: {exc.cause}", exc.hint.partition("      ")[0])
    if not found.stored:
        raise Skip("none is stored")
    return good(f"{current.name if current else 'none'} of {len(found.stored)}: {', '.join(found.stored)}")


def login(facts: Facts) -> Verdict:
    """Whether the stored login can be used: by its owner alone, not ended, or with something to renew it by."""
    try:
        stored = credentials.load(facts.state_dir)
    except McpgError as exc:
        return bad(f"{exc.what}: {exc.cause}", exc.hint.partition("      ")[0])
    if stored is None:
        raise Skip("nobody has signed in with this state directory")
    ends, now = stored.expires_at, time.time()
    if ends is None or ends > now:
        return good(f"{stored.identity}" + (f", for another {render.took((ends - now) * 1000)}" if ends else ""))
    words = f"the login of {stored.identity} ended {render.took((now - ends) * 1000)} ago"
    if stored.is_renewable:
        return good(f"{words}; the next command renews it")
    if facts.answers and facts.server.meta.get("auth_mode") == "none":
        return good(f"{words}; the control plane in use asks for none")
    return bad(f"{words} and cannot be renewed: {_why(stored)}", credentials.sign_in(stored.issuer))


def _why(stored: credentials.Stored) -> str:
    return "it has no refresh token" if not stored.refresh_token else "it does not say whose it is"


def session(facts: Facts) -> Verdict:
    """Whether the session, if one is given, can be read and is its owner's alone."""
    where = facts.values.session_cookie_file
    if where == "-":
        raise Skip("it comes from stdin")
    if not where and not facts.values.session_cookie:
        raise Skip("none is given")
    try:
        cookie, source = inputs.session(facts.values)
    except McpgError as exc:
        path = shlex.quote(str(where))
        return bad(f"{exc.what}: {exc.cause}", exc.hint if exc.hint.startswith("chmod") else f"ls -l {path}")
    if not cookie:
        return bad(f"{where} is empty", f"ls -l {shlex.quote(str(where))}")
    if source == "--session-cookie":
        return note("it is on the command line, where `ps` shows it", "mcpg-ctl doctor --session-cookie-file PATH")
    mode = f", {stat.S_IMODE(Path(where).stat().st_mode):04o}" if source == where else ""
    return good(f"from {source}{mode}")
