"""Opening a state directory: what is new is made, what is ours is opened, everything else is refused untouched."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from tortoise import Tortoise

from mcpg.errors import NewerSchema, StateDirUnusable
from mcpg.store import reads
from mcpg.store.config import tortoise_config
from mcpg.store.database import Database, known_migrations, sqlite_path
from mcpg.store.journal import line_hash
from mcpg.store.sqlite_database import applied_migrations
from tests.store.conftest import born


async def test_a_new_database_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "a" / "cp.db")
    await db.close()
    assert stat.S_IMODE((tmp_path / "a" / "cp.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


async def test_a_second_start_migrates_nothing_and_keeps_everything(tmp_path: Path) -> None:
    first = await Database.open(tmp_path / "cp.db")
    line = await born(first)
    await first.close()
    second = await Database.open(tmp_path / "cp.db")
    lines = await reads.history(second, "c1")
    await second.close()
    assert (first.fresh, second.fresh) == (True, False)
    assert lines == [line]
    assert line_hash(lines[0]) == line.hash


async def test_a_newer_databases_file_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "cp.db"
    await (await Database.open(path)).close()
    raw = sqlite3.connect(path)
    raw.execute("INSERT INTO tortoise_migrations(app,name,applied_at) VALUES('store','9999_from_the_future','2030')")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(NewerSchema) as refused:
        await Database.open(path)
    assert "9999_from_the_future" in refused.value.cause
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "cp.db"
    path.write_text("my precious notes" * 100)
    with pytest.raises(StateDirUnusable):
        await Database.open(path)
    assert path.read_text() == "my precious notes" * 100


async def test_somebody_elses_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "cp.db"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE recipes(name)")
    raw.commit()
    raw.close()
    with pytest.raises(StateDirUnusable):
        await Database.open(path)
    assert applied_tables(path) == {"recipes"}


def applied_tables(path: Path) -> set[str]:
    raw = sqlite3.connect(path)
    names = {n for (n,) in raw.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    raw.close()
    return names


async def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateDirUnusable) as refused:
        await Database.open(tmp_path / "file" / "cp.db")
    assert "--state-dir" in refused.value.hint


def schema(path: Path) -> dict[str, object]:
    """Every table's columns, and the columns of its indexes, whatever the indexes are called."""
    raw = sqlite3.connect(path)
    found: dict[str, object] = {}
    for table in sorted(applied_tables(path) - {"tortoise_migrations", "sqlite_sequence"}):
        columns = [tuple(c[1:]) for c in raw.execute(f"PRAGMA table_info({table})")]
        indexes = sorted(
            (bool(unique), [c[2] for c in raw.execute(f"PRAGMA index_info({name})")])
            for _, name, unique, *_ in raw.execute(f"PRAGMA index_list({table})")
        )
        found[table] = (sorted(columns), indexes)
    raw.close()
    return found


async def test_the_migrations_make_what_the_models_say(tmp_path: Path) -> None:
    """A changed model without a migration fails here; write one with `make migration`."""
    await (await Database.open(tmp_path / "migrated.db")).close()
    await Tortoise.init(config=tortoise_config(tmp_path / "models.db"))
    await Tortoise.generate_schemas()
    await Tortoise.close_connections()
    assert schema(tmp_path / "migrated.db") == schema(tmp_path / "models.db")


def test_the_schema_version_is_the_number_of_migrations(tmp_path: Path) -> None:
    assert known_migrations()[0] == "0001_initial"
    assert applied_migrations(tmp_path / "none.db") == []


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "/state/cp-state.db"),
        ("sqlite:///var/lib/x.db?mode=rwc", "/var/lib/x.db"),
        ("sqlite:/var/lib/x.db", "/var/lib/x.db"),
        ("sqlite://./x.db", os.path.abspath("x.db")),
    ],
)
def test_a_db_url_names_a_file(url: str, path: str) -> None:
    assert str(sqlite_path(url, Path("/state"))) == path


@pytest.mark.parametrize("url", ["mysql://u:secret@h/db", "sqlite://:memory:", "nonsense", "sqlite://"])
def test_an_unsupported_db_url_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(StateDirUnusable) as refused:
        sqlite_path(url, Path("/state"))
    assert "secret" not in str(refused.value)
