"""Opening a PostgreSQL database: what is ours is opened, everything else is refused untouched, and no password is told."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import asyncpg
import pytest

from mcpg.cli.database import place
from mcpg.errors import DatabaseUnusable, McpgError, NewerSchema, StateDirUnusable
from mcpg.host.database_url import shown
from mcpg.store.database import Database, known_migrations, locate
from mcpg.store.postgres_link import options, unusable
from tests.bounds import BOUND_S
from tests.conftest import NewDatabase
from tests.postgres import PASSWORD, Server
from tests.store.conftest import born


@pytest.fixture
def database() -> str:
    return "postgres"


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return str(new_database())


@pytest.mark.long
async def test_three_that_start_at_once_on_an_empty_database_migrate_it_once(postgres: Server) -> None:
    url = postgres.empty()
    async with asyncio.timeout(BOUND_S):
        three = await asyncio.gather(*(Database.open(url) for _ in range(3)))
    applied = await three[0].rows("SELECT name FROM tortoise_migrations WHERE app='store' ORDER BY name")
    assert [row["name"] for row in applied] == known_migrations()
    await asyncio.gather(*(born(db, f"c{i}") for i, db in enumerate(three)))
    assert len(await three[0].rows("SELECT 1 FROM cluster")) == 3
    await asyncio.gather(*(db.close() for db in three))
    postgres.drop(url)


async def refused(url: str) -> McpgError:
    with pytest.raises(McpgError) as error:
        await Database.open(url)
    assert error.value.cause
    assert error.value.hint
    for said in (error.value.what, error.value.cause, error.value.hint, str(error.value)):
        assert PASSWORD not in said
        assert "s3cret" not in said
        assert "wr0ng" not in said
    return error.value


async def test_a_newer_schema_is_refused_and_untouched(url: str, postgres: Server) -> None:
    name = url.rpartition("/")[2]
    con = await asyncpg.connect(url)
    await con.execute(
        "INSERT INTO tortoise_migrations(app,name,applied_at) VALUES('store','9999_from_the_future','2030-01-01')"
    )
    await con.close()
    error = await refused(url)
    assert isinstance(error, NewerSchema)
    assert "9999_from_the_future" in error.cause
    assert name in error.what


async def test_somebody_elses_database_is_refused_and_untouched(postgres: Server) -> None:
    url = postgres.empty()
    con = await asyncpg.connect(url)
    await con.execute("CREATE TABLE recipes(name text)")
    assert isinstance(await refused(url), DatabaseUnusable)
    tables = await con.fetch("SELECT tablename FROM pg_tables WHERE schemaname='public'")
    await con.close()
    assert [name for (name,) in tables] == ["recipes"]
    postgres.drop(url)


async def test_a_wrong_password_a_missing_database_and_nobody_there(postgres: Server) -> None:
    good = postgres.url("postgres")
    wrong = await refused(f"postgres://mcpg:wr0ng@127.0.0.1:{postgres.port}/postgres")
    assert (wrong.code, "password" in wrong.cause) == ("database_unusable", True)
    missing = await refused(postgres.url("nowhere"))
    assert "createdb nowhere" in missing.hint
    nobody = await refused(good.replace(f":{postgres.port}/", ":1/"))
    assert "pg_isready" in nobody.hint


async def test_a_password_that_is_not_escaped_is_not_shown_as_a_port(postgres: Server) -> None:
    error = await refused(f"postgres://mcpg:s3cret/x@127.0.0.1:{postgres.port}/postgres")
    assert "%2F" in error.hint


GARBLED = (
    "postgres://mcpg:12/s3cret@127.0.0.1:{port}/postgres",
    "postgres://mcpg:1234#s3cret@127.0.0.1:{port}/postgres",
    "postgres://mcpg:1234?s3cret@127.0.0.1:{port}/postgres",
    "postgres://mcpg:s3cret/x@127.0.0.1:{port}/postgres",
    "postgres://mcpg:s3cret#x@127.0.0.1:{port}/postgres",
    "postgres://mcpg:s3cret/postgres",
    "postgres://[s3cret/postgres",
)


@pytest.mark.parametrize("garbled", GARBLED)
async def test_nothing_of_a_password_that_is_not_escaped_is_told(
    postgres: Server, garbled: str, tmp_path: Path
) -> None:
    url = garbled.format(port=postgres.port)
    error = await refused(url)
    for told in (str(error), error.cause, error.hint, shown(url), place(url, tmp_path, {}).shown):
        assert "s3cret" not in told
        assert "12" not in told
        assert "mcpg:" not in told


@pytest.mark.parametrize(
    "url", ["://mcpg:s3cret@127.0.0.1/m1", "//mcpg:s3cret@127.0.0.1/m1", "s3cret@h/m1", "mcpg-s3cret"]
)
def test_a_url_without_a_scheme_is_refused_and_not_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(StateDirUnusable) as error:
        locate(url, tmp_path)
    assert "s3cret" not in f"{error.value.what} {error.value.cause} {error.value.hint}"
    assert "s3cret" not in place(url, tmp_path, {}).shown


async def test_options_that_cannot_be_read_are_not_told(postgres: Server) -> None:
    error = await refused(f"postgres://mcpg@127.0.0.1:{postgres.port}/postgres?s3cret")
    assert "options cannot be read" in error.cause


async def test_a_port_that_is_none_is_called_so() -> None:
    assert "65535" in (await refused("postgres://mcpg:s3cret@127.0.0.1:99999/m1")).cause


async def test_what_libpq_takes_is_taken(url: str) -> None:
    """A scheme in capitals, and a limit to the time a connection takes."""
    db = await Database.open(locate(f"POSTGRES{url.removeprefix('postgres')}?connect_timeout=3", Path("/nowhere")))
    assert await db.rows("SELECT 1 AS one") == [{"one": 1}]
    await db.close()
    assert (options(f"{url}?connect_timeout=3")["timeout"], options(f"{url}?connect_timeout=60")["timeout"]) == (3, 5)
    assert options(f"{url}?connect_timeout=3&application_name=x%20y")["dsn"] == f"{url}?application_name=x+y"


async def test_hints_name_what_is_there_and_as_sql_has_it(postgres: Server) -> None:
    nothing = unusable("postgres://127.0.0.1", asyncpg.InvalidCatalogNameError("no such database"))
    assert "createdb" not in nothing.hint
    role = unusable("postgres://we%20ird@h/m1", asyncpg.InsufficientPrivilegeError("permission denied"))
    assert 'TO "we ird"' in role.hint
    asked = "sslmode=verify-full&sslrootcert=/nonexistent"
    no_file = await refused(f"postgres://mcpg@127.0.0.1:{postgres.port}/postgres?{asked}")
    assert ("sslrootcert=/nonexistent" in no_file.cause, "pg_isready" in no_file.hint) == (True, False)


@pytest.mark.long
async def test_serve_says_what_is_wrong_and_ends(postgres: Server, tmp_path: Path) -> None:
    url = postgres.url("nowhere")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcpg.cli.main", "serve", "--state-dir", str(tmp_path / "s"), "--db-url", url,
        "--bind-http", "127.0.0.1:0", "--bind-grpc", "127.0.0.1:0", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(BOUND_S):
        _, err = await process.communicate()
    said = err.decode().splitlines()
    assert process.returncode == 1
    assert said[-3] == f"error: the database at postgres://127.0.0.1:{postgres.port}/nowhere cannot be used"
    assert said[-2].startswith('cause: database "nowhere" does not exist')
    assert said[-1].startswith("hint:  createdb nowhere")
    assert "s3cret" not in err.decode()


async def test_nothing_that_is_logged_holds_the_password(
    url: str, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    db = await Database.open(url)
    await born(db)
    await db.close()
    assert db.shown == f"postgres://127.0.0.1:{postgres.port}/{Path(url).name}"
    for secret in (PASSWORD, "s3cret"):
        assert secret not in caplog.text
