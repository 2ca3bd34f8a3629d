"""
A real PostgreSQL for the tests: one server a test session, started from the installed programmes, a fresh database a test.

The server listens on a loopback port that nobody else is given and dies with the process that started it. It does not sync:
what is tested is what is written, not the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from mcpg.store.database import Database
from mcpg.store.sql import dollars
from tests.bounds import BOUND_S
from tests.ports import free_port

T = TypeVar("T")
USER, PASSWORD = "mcpg", "s3cret/of:tests"
QUICK = (
    "fsync=off",
    "full_page_writes=off",
    "autovacuum=off",
    "shared_buffers=64MB",
    "wal_level=minimal",
    "max_wal_senders=0",
)


def programmes() -> Path:
    """The folder of initdb and postgres; fails the test when there is none."""
    beside = shutil.which("initdb")
    for folder in [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), os.path.dirname(beside or "")]:
        if folder and os.path.exists(os.path.join(folder, "initdb")):
            return Path(folder)
    pytest.fail("PostgreSQL's initdb is missing: run `tools/postgres.sh`", pytrace=False)


def _dies_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG; SIGINT is PostgreSQL's fast shutdown


def _aside(work: Coroutine[Any, Any, T]) -> T:
    """The answer of *work*, whether or not an event loop runs here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def edit(url: str, sql: str, *params: Any) -> int:
    """How many rows *sql* changed, on a connection of its own."""
    con = await asyncpg.connect(url)
    try:
        return int((await con.execute(dollars(sql), *params)).rpartition(" ")[2])
    finally:
        await con.close()


class Server:
    """A running PostgreSQL. `fresh()` makes a database with every migration applied, `empty()` one without any."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log
        self._numbers = itertools.count(1)
        self._has_template = False
        self._copies = ""  # how a template is copied

    def url(self, database: str) -> str:
        password = PASSWORD.replace("/", "%2F").replace(":", "%3A")
        return f"postgres://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> list[asyncpg.Record]:
        """The rows of the last of *statements*, on a connection of their own."""

        async def work() -> list[asyncpg.Record]:
            con = await asyncpg.connect(self.url(database))
            try:
                return [await con.fetch(statement) for statement in statements][-1]
            finally:
                await con.close()

        return _aside(work())

    def empty(self) -> str:
        name = f"t{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def fresh(self) -> str:
        if not self._has_template:

            async def migrate() -> None:
                await (await Database.open(self.url("migrated"))).close()

            self.run("CREATE DATABASE migrated")
            _aside(migrate())
            self._has_template = True
            if int(self.run("SHOW server_version_num")[0][0]) >= 150_000:
                self._copies = " STRATEGY file_copy"  # half the price of the other, without fsync
        name = f"t{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE migrated{self._copies}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.run(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")


@contextlib.contextmanager
def serving(options: tuple[str, ...] = QUICK) -> Iterator[Server]:
    """A server of its own, with these settings beside the usual ones; ended, and its directory removed, afterwards."""
    folder = programmes()
    home = tempfile.mkdtemp(prefix="mcpg-postgres-")
    who: dict[str, Any] = {"cwd": home}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("postgres")
        os.chown(home, account.pw_uid, account.pw_gid)
        who |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, secret = os.path.join(home, "data"), os.path.join(home, "password")
    Path(secret).write_text(PASSWORD)
    os.chmod(secret, 0o644)
    made = subprocess.run(
        [folder / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync", "--locale=C",
         "--encoding=UTF8"], capture_output=True, text=True, check=False, **who,
    )  # fmt: skip
    if made.returncode:
        pytest.fail(f"initdb failed: {made.stderr}", pytrace=False)
    port = free_port()
    options = ("listen_addresses=127.0.0.1", "max_connections=300", *options)
    server = subprocess.Popen(
        [folder / "postgres", "-D", data, "-p", str(port), "-k", home, *(f for o in options for f in ("-c", o))],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_dies_with_us, **who,  # noqa: PLW1509
    )  # fmt: skip
    said, is_ready = Path(home, "log"), threading.Event()

    def listen() -> None:
        assert server.stderr is not None
        with server.stderr, said.open("wb") as log:
            for line in server.stderr:
                log.write(line)
                log.flush()
                if b"ready to accept connections" in line:
                    is_ready.set()
        is_ready.set()  # it ended

    listener = threading.Thread(target=listen, name="postgres")
    listener.start()
    try:
        if not is_ready.wait(BOUND_S) or server.poll() is not None:
            pytest.fail(f"PostgreSQL did not start: {said.read_text()}", pytrace=False)
        yield Server(port, said)
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(BOUND_S)
        listener.join(BOUND_S)
        shutil.rmtree(home, ignore_errors=True)
