"""
Fixtures of the whole suite: a real control plane on kernel-chosen ports, the real binaries, snapshots in one place.

A test that needs a real part fails when it is missing, and says which command fetches it; it never skips.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.amber import AmberSnapshotExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from mcpg.engine.audit import verify_journal
from mcpg.engine.ports import Provisioner
from mcpg.server import ControlPlane
from mcpg.settings import Server
from mcpg.store.database import Database, Where
from mcpg.store.journal import Timeout
from tests import postgres as postgresql
from tests.bounds import BOUND_S

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")  # a slow machine is no finding
ROOT = Path(__file__).parent.parent
SNAPSHOTS = ROOT / "snapshots"
BOTH = ("sqlite", "postgres")
GATEWAY_BIN = ROOT / ".cache/gateway/node_modules/@mcpg-dev/cli-linux-x64/bin"


class InSnapshots(AmberSnapshotExtension):
    """Snapshots live in the top-level folder, where a reviewer looks, not beside the tests."""

    @classmethod
    def dirname(cls, *, test_location: Any) -> str:
        return str(SNAPSHOTS)

    @classmethod
    def get_snapshot_name(cls, *, test_location: Any, index: Any = 0) -> str:
        """Without the database: what is told is the same on both."""
        name = super().get_snapshot_name(test_location=test_location, index=index)
        return re.sub(rf"\[({'|'.join(BOTH)})(-|\])", lambda found: "[" if found[2] == "-" else "", name)


class Page(SingleFileSnapshotExtension):
    """One Markdown page a snapshot: readable on its own, and linked from the docs."""

    write_mode = WriteMode.TEXT
    _write_mode = WriteMode.TEXT
    file_extension = "md"

    @classmethod
    def dirname(cls, *, test_location: Any) -> str:
        return str(SNAPSHOTS / test_location.basename)


@pytest.fixture
def snapshot(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(InSnapshots)


@pytest.fixture
def page(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(Page)


# Minutes of waiting for leases, watches and deadlines: begun first, so that no worker ends with them alone.
FIRST = ("tests/every/", "tests/replicas/test_processes.py", "tests/peers/", "tests/crash/", "tests/machines/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; the tests that share what is dear to make stay on one worker (`--dist loadgroup`)."""

    def place(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST))

    items.sort(key=place)
    for item in items:
        if item.nodeid.startswith("tests/every/"):  # one story, told once
            item.add_marker(pytest.mark.xdist_group("every"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has exported must not change a test."""
    for name in list(os.environ):
        if name.startswith("MCPG_") and not name.startswith("MCPG_TEST_"):
            monkeypatch.delenv(name)


def real(name: str) -> Path:
    """One of the real binaries (mcpg, mcpg-cloud, mcpg-config); fails the test when it was not fetched."""
    path = GATEWAY_BIN / name
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make gateway`", pytrace=False)
    return path


class Plane:
    """A running control plane and a client for its API."""

    def __init__(self, control: ControlPlane, client: httpx.AsyncClient) -> None:
        self.control = control
        self.client = client
        self.engine = control.engine
        self.db = control.db
        self.url = control.started.http_url
        self.grpc = control.started.grpc_url.removeprefix("http://")
        self.state_dir = Path(control.started.state_dir)
        self.db_url = control._settings.db_url

    async def edit(self, sql: str, *params: Any) -> None:
        """What an operator with an editor of databases does: a statement of its own connection, that finds its rows."""
        if self.db_url:
            assert await postgresql.edit(self.db_url, sql, *params) > 0, sql
            return
        with sqlite3.connect(self.db.shown, timeout=BOUND_S) as db:
            assert db.execute(sql, params).rowcount > 0, sql
        db.close()

    gateways = "/v1/orgs/default/workspaces/default/environments/default/gateways"
    tokens = "/v1/orgs/default/workspaces/default/environments/default/enrollment-tokens"

    async def publish(self, name: str, headers: dict[str, str] | None = None, **body: Any) -> list[dict[str, Any]]:
        """POST a publish and read its ladder to the end: one dict an event, with `phase` and `id`."""
        return await self.ladder("POST", self.gateways, json={"name": name, **body}, headers=headers or {})

    async def delete(self, uid: str) -> list[dict[str, Any]]:
        return await self.ladder("DELETE", f"{self.gateways}/{uid}")

    async def ladder(self, method: str, path: str, **kwargs: Any) -> list[dict[str, Any]]:
        answer = await self.client.request(method, path, **kwargs)
        assert answer.status_code == 200, answer.text
        return parse_events(answer.text)

    async def operation(self, operation_id: str) -> dict[str, Any]:
        return (await self.client.get(f"/v1/orgs/default/operations/{operation_id}")).raise_for_status().json()

    async def steer(self, operation_id: str, verb: str, reason: str = "") -> dict[str, Any]:
        """POST resume, retry or cancel: the operation as it is then."""
        body = {"reason": reason} if reason else {}
        answer = await self.client.post(f"/v1/operations/{operation_id}/{verb}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def reaches(self, operation_id: str, *states: str) -> dict[str, Any]:
        """The operation, once it is in one of *states*."""

        async def there() -> dict[str, Any] | None:
            found = await self.operation(operation_id)
            return found if found["state"] in states else None

        return await self.until(there, f"{operation_id} is {' or '.join(states)}")

    async def instances(self) -> list[dict[str, Any]]:
        return (await self.client.get("/v1/orgs/default/instances")).raise_for_status().json()

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, seconds: float = BOUND_S) -> Any:
        """Wait for *condition*; every committed journal line is an occasion to look again."""
        changed = asyncio.Event()
        self.db.writer.listen(lambda _: changed.set())
        async with asyncio.timeout(seconds):
            while True:
                changed.clear()
                if found := await condition():
                    return found
                try:
                    async with asyncio.timeout(0.2):
                        await changed.wait()
                except TimeoutError:
                    continue


def parse_events(text: str) -> list[dict[str, Any]]:
    """Frames of an event stream as dicts: the JSON of `data`, with `event` as `_event` and `id` as `_id`."""
    import json

    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in fields:
            events.append({**json.loads(fields["data"]), "_event": fields["event"], "_id": fields.get("id")})
    return events


async def audited(plane: Plane) -> None:
    """Every history is told rightly, and no row contradicts another: what a test should leave that damages nothing."""
    after, findings = "", list[object]()
    while True:
        found = await verify_journal(plane.db, after, 20)
        findings += found.findings
        after = found.next
        if not after:
            break
    assert findings == []


StartPlane = Callable[..., AbstractAsyncContextManager[Plane]]


@asynccontextmanager
async def running(
    state_dir: Path, *, given: Provisioner | None = None, timeout: Timeout | None = None, **settings: Any
) -> AsyncIterator[Plane]:
    wanted = {"bind_http": "127.0.0.1:0", "bind_grpc": "127.0.0.1:0", "provisioner": "noop", **settings}
    async with (
        ControlPlane(Server(state_dir=state_dir, **wanted), provisioner=given, timeout=timeout) as control,
        httpx.AsyncClient(base_url=control.started.http_url, timeout=BOUND_S, trust_env=False) as client,
    ):
        yield Plane(control, client)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with every migration applied: copied for each test, so that each does not migrate anew."""
    path = tmp_path_factory.mktemp("migrated") / "cp-state.db"

    async def make() -> None:
        await (await Database.open(path)).close()

    asyncio.run(make())
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """One PostgreSQL a session, started by the first test that needs it."""
    with postgresql.serving() as server:
        yield server


@pytest.fixture
def database() -> str:
    """Which database this test runs on. tests/store, tests/engine and tests/api have it twice: see their conftest.py."""
    return "sqlite"


NewDatabase = Callable[[], Where]


@pytest.fixture
def new_database(
    database: str, migrated: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[NewDatabase]:
    """`new_database()`: where a database with the schema and nothing in it is, for Database.open."""
    made: list[str] = []

    def new() -> Where:
        if database == "postgres":
            made.append(request.getfixturevalue("postgres").fresh())
            return made[-1]
        made.append(str(tmp_path / f"new-{len(made)}.db"))
        return Path(shutil.copy(migrated, made[-1]))

    yield new
    if database == "postgres":
        for url in made:
            request.getfixturevalue("postgres").drop(url)


@pytest.fixture
def start_plane(tmp_path: Path, migrated: Path, database: str, new_database: NewDatabase) -> StartPlane:
    """
    `async with start_plane(provisioner="noop", …)`: a control plane on this test's state directory, or on *state_dir*; on
    PostgreSQL each of them has a database of its own, unless `db_url` says otherwise.
    """
    urls: dict[Path, str] = {}

    def start(state_dir: Path | None = None, **settings: Any) -> AbstractAsyncContextManager[Plane]:
        state = state_dir or tmp_path / "state"
        if database == "postgres" and "db_url" not in settings:
            if state not in urls:
                urls[state] = str(new_database())
            settings["db_url"] = urls[state]
        if not state.exists():
            state.mkdir(mode=0o700)
            if database == "sqlite":
                shutil.copy(migrated, state / "cp-state.db")
        return running(state, **settings)

    return start


@pytest.fixture
async def plane(start_plane: StartPlane) -> AsyncIterator[Plane]:
    """A control plane whose provisioner does nothing: the state machines alone."""
    async with start_plane() as running_plane:
        yield running_plane


@pytest.fixture
async def local_plane(start_plane: StartPlane) -> AsyncIterator[Plane]:
    """A control plane that runs the real gateway; whatever it left running is ended afterwards."""
    async with start_plane(provisioner="local", gateway_bin=str(real("mcpg"))) as running_plane:
        yield running_plane


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gateways are detached on purpose and outlive a test that fails: end those of this test's directory, by pid."""
    if "tmp_path" not in request.fixturenames:  # it has no directory to run any in
        yield
        return
    folder = str(request.getfixturevalue("tmp_path"))
    yield
    import signal

    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if not os.readlink(f"/proc/{pid}/cwd").startswith(folder):
                continue
            environ = Path("/proc", pid, "environ").read_bytes()
        except OSError:
            continue
        if b"MCPG_CTL_REPLICA=" in environ:
            os.kill(int(pid), signal.SIGKILL)
