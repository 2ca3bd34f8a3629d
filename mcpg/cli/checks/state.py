"""Checks of the state directory and the database in it. They read; nothing is created, not even to try whether it could be."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import time
from pathlib import Path

from mcpg.cli import database, render
from mcpg.cli.checks.facts import Facts, Skip, Verdict, bad, good, note

QUICK_CHECK_S = 1.2
MOUNTS = Path("/proc/mounts")
_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3fs", "9p")
)
FREE_LOW = 512 * 1024 * 1024
FREE_NONE = 32 * 1024 * 1024


def directory(facts: Facts) -> Verdict:
    """Whether the state directory is ours alone and can be written."""
    path = facts.state_dir
    quoted = shlex.quote(str(path))
    try:
        found = path.stat()
    except FileNotFoundError:
        parent = _there(path)
        if not os.access(parent, os.W_OK | os.X_OK):
            return bad(f"{path} is not there, and {parent} may not be written", "mcpg-ctl doctor --state-dir ~/.mcpg")
        return good(f"{path} is not there yet: the first start makes it")
    if not stat.S_ISDIR(found.st_mode):
        return bad(f"{path} is no directory", f"mv {quoted} {quoted}.old")
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        words = f"{path} belongs to uid {found.st_uid}, and this is uid {os.geteuid()}"
        return bad(words, f"sudo chown -R {os.geteuid()} {quoted}")
    if not os.access(path, os.W_OK | os.X_OK | os.R_OK):
        return bad(f"{path} has mode {mode:04o} and cannot be written", f"chmod 700 {quoted}")
    if mode & 0o022:
        return bad(f"{path} has mode {mode:04o}: others can replace what is in it", f"chmod 700 {quoted}")
    if mode & 0o055:
        return note(f"{path} has mode {mode:04o}: others can see what is in it", f"chmod 700 {quoted}")
    return good(f"{path}, {mode:04o}")


def _there(path: Path) -> Path:
    """*path*, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def space(facts: Facts) -> Verdict:
    """How much can still be written where the database is."""
    where = _there(facts.place.path or facts.state_dir)
    found = os.statvfs(where)
    free = found.f_bavail * found.f_frsize
    words = f"{render.size(free)} free at {where if where.is_dir() else where.parent}"
    fix = f"du -xh --max-depth=1 {shlex.quote(str(facts.state_dir))} | sort -h"
    if free < FREE_NONE or (found.f_files and not found.f_favail):
        return bad(f"{words}, {found.f_favail} files: nothing can be written soon", fix)
    return note(f"only {words}", fix) if free < FREE_LOW else good(words)


def filesystem(facts: Facts) -> Verdict:
    """SQLite's WAL needs memory that all its processes share, which network file systems do not give."""
    if facts.place.path is None:
        raise Skip(f"{facts.place.shown} is no file here")
    where = _there(facts.place.path or facts.state_dir).resolve()
    try:
        mounts = [line.split() for line in MOUNTS.read_text("utf-8", "replace").splitlines()]
    except OSError:
        raise Skip(f"this system has no {MOUNTS}") from None
    under = [fields for fields in mounts if where.is_relative_to(_unescaped(fields[1]))]
    kind, point = max(((fields[2], _unescaped(fields[1])) for fields in under), key=lambda each: len(each[1]))
    if kind in _NETWORK:
        words = f"{where} is on {kind} ({point}): a database in WAL mode may be damaged there"
        return bad(words, "mcpg-ctl serve --state-dir /var/lib/mcpg")
    return good(f"{kind} at {point}")


def _unescaped(point: str) -> str:
    """A mount point as /proc/mounts has it: blanks and backslashes are octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, char)
    return point


def content(facts: Facts) -> Verdict:
    """Whether the database opens and is whole, as far as a quick check gets in its time."""
    with facts.db() as db:
        end = time.monotonic() + QUICK_CHECK_S
        db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        size = render.size(sum(database.sizes(facts.place.path or facts.state_dir)))
        found = ["interrupted"]
        try:
            found = [str(row[0]) for row in db.execute("PRAGMA quick_check(3)")]
        except sqlite3.OperationalError as exc:
            if "interrupt" not in str(exc):
                raise
        finally:
            db.set_progress_handler(None, 0)
    if found == ["interrupted"]:
        return good(f"{facts.place.shown}, {size}: opens; too large to check in {QUICK_CHECK_S:g} s")
    if found != ["ok"]:
        path = shlex.quote(facts.place.shown)
        return bad(
            f"{facts.place.shown} is damaged: {'; '.join(found)}", f"sqlite3 {path} .recover | sqlite3 {path}.new"
        )
    return good(f"{facts.place.shown}, {size}, quick_check ok")


def schema(facts: Facts) -> Verdict:
    """Whether this version can work on the database."""
    with facts.db() as db:
        applied, known = database.applied_migrations(db), database.known_migrations()
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not applied:
        if not tables:
            return good("empty: the first start fills it")
        return bad(f"{facts.place.shown} is not a control plane's database", "mcpg-ctl doctor --state-dir ~/.mcpg")
    if newer := [name for name in applied if name not in known]:
        words = (
            f"{facts.place.shown} was written by a newer version: it has {newer[-1]}, this one knows up to {known[-1]}"
        )
        return bad(words, "pip install --upgrade mcpg-control-plane")
    behind = f": the next start brings it to {len(known)}" if len(applied) < len(known) else ""
    return good(f"{len(applied)} of {len(known)} migrations{behind}")


def journal_mode(facts: Facts) -> Verdict:
    """Without WAL every read waits for every write."""
    with facts.db() as db:
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise Skip("the database is empty")
    path = facts.place.path
    if path is None or not database.is_wal(path):
        if facts.local.state in ("stopped", "stale"):
            return good("not wal: the next start sets it")
        words = f"{facts.place.shown} is not in WAL mode: every read waits for every write"
        return note(words, f"sqlite3 {shlex.quote(facts.place.shown)} 'PRAGMA journal_mode = wal'")
    return good("wal")


def journal_time(facts: Facts) -> Verdict:
    """A newest line of tomorrow means that a clock went back, and that new lines will bear its time until then."""
    with facts.db() as db:
        if "at" not in database.columns(db, "journal"):
            raise Skip("the database has no journal")
        newest = db.execute("SELECT at FROM journal ORDER BY id DESC LIMIT 1").fetchone()
    if newest is None:
        return good("no line yet")
    ahead = newest[0] / 1e6 - time.time()
    if ahead > 30:
        return note(
            f"the newest line is {render.took(ahead * 1000)} in the future: a clock was wrong", "timedatectl status"
        )
    return good(f"the newest line is {render.took(max(-ahead, 0) * 1000)} old")


def record(facts: Facts) -> Verdict:
    """Whether server.json tells the truth about who works on this directory."""
    local = facts.local
    pid, url = local.record.get("pid"), local.record.get("http_url")
    here = "" if facts.values.source("state_dir") == "default" else f" --state-dir {shlex.quote(str(facts.state_dir))}"
    if local.state == "stale":
        words = f"pid {pid} ended without stopping: its gateways run on, and nobody looks after them"
        return note(words, f"mcpg-ctl serve{here}")
    if local.state == "silent":
        return bad(f"pid {pid} lives and does not answer as itself at {url}", f"kill {pid}")
    if local.state == "stopped":
        return good("no control plane runs on this directory")
    return good(f"pid {pid} at {url}, answers in {render.took(local.took_ms)}")


def gateway_agent(facts: Facts) -> Verdict:
    """What `gateway-status` reports as a problem of the agent here, a data plane that it left behind among them."""
    if not (facts.state_dir / "gateway-agent").exists():
        raise Skip("no gateway has run with this state directory")
    from mcpg.agent.status import status

    found = status(facts.state_dir)
    if problems := found["problems"]:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        again = f"mcpg-ctl gateway-status --state-dir {shlex.quote(str(facts.state_dir))}"
        return note(f"{problems[0]['problem']}{more}", problems[0]["fix"] or again)
    return good(
        f"running, pid {found['agent']['pid']}" if found["agent"]["running"] else "not running, nothing left over"
    )
