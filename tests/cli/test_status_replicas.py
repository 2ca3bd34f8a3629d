"""`status`: which control planes share the database, and what none of them looks after."""

# ruff: noqa: F811  fixtures are imported under the names by which tests ask for them
from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mcpg.cli import peers, running
from mcpg.cli.database import place
from mcpg.wire.fleet import Replica, Stranded

from .fake import Ctl, Fake, data
from .test_status import META, record, state  # noqa: F401  fixtures


def replica(epoch: str, state: str, seen_s: float | None, **more: Any) -> dict[str, Any]:
    """As GET /v1/replicas has it, seen so many seconds ago."""
    now = datetime.now(UTC)
    seen = None if seen_s is None else now - timedelta(seconds=seen_s)
    fields = {
        "id": f"rep-{epoch}", "epoch": epoch, "here": False, "state": state, "host": "h", "pid": 7, "version": "0.1.0",
        "http_url": f"http://{epoch}.test", "grpc_url": "", "provisioner": "local", "started_at": now, "seen_at": seen,
    }  # fmt: skip
    return Replica(**fields | more).model_dump(mode="json")


def lines_of(ran: Any, label: str) -> list[str]:
    return [line.strip() for line in ran.out.splitlines() if line.strip().startswith(label)]


def test_who_shares_the_database_is_said_in_one_line(
    ctl: Ctl, record: Callable[..., dict[str, Any]], fake: Fake
) -> None:
    record()
    fake.says("GET", "/v1/meta", data(META))
    found = [replica("r-1", "living", 0, here=True), replica("r-2", "living", 2.5), replica("r-3", "late", 400)]
    fake.says("GET", "/v1/replicas", data([*found, replica("r-4", "left", None)]))
    fake.says("GET", "/v1/stranded", data([]))
    [line] = lines_of(ctl("status"), "Replicas")
    assert line == (
        "Replicas       http://r-1.test 0.1.0 (this one, seen now), http://r-2.test 0.1.0 (seen 2s ago), "
        "http://r-3.test 0.1.0 (late, last seen 6m ago); 1 stopped"
    )
    assert lines_of(ctl("status"), "Stranded") == []
    printed = ctl("status", "-o", "json").json
    assert [each["state"] for each in printed["replicas"]] == ["living", "living", "late", "left"]
    assert (printed["replicas"][1], printed["stranded"]) == (found[1], [])


def test_a_clock_that_is_off_the_databases_is_said(ctl: Ctl, record: Callable[..., dict[str, Any]], fake: Fake) -> None:
    record()
    fake.says("GET", "/v1/meta", data(META))
    fake.says("GET", "/v1/stranded", data([]))
    for ahead_s, words in (
        (12.04, ", its clock 12.0 s ahead of the database's"),
        (-0.9, ""),
        (-3.5, ", its clock 3.5 s behind the database's"),
    ):
        found = [replica("r-1", "living", 0, here=True, clock_ahead_s=ahead_s), replica("r-2", "living", 2.5)]
        fake.says("GET", "/v1/replicas", data(found))
        [line] = lines_of(ctl("status"), "Replicas")
        assert line == (
            f"Replicas       http://r-1.test 0.1.0 (this one, seen now{words}), http://r-2.test 0.1.0 (seen 2s ago)"
        )


def test_what_is_stranded_is_said_with_its_age_and_the_next_command(
    ctl: Ctl, record: Callable[..., dict[str, Any]], fake: Fake
) -> None:
    record()
    fake.says("GET", "/v1/meta", data(META))
    fake.says("GET", "/v1/replicas", data([]))
    since = datetime.now(UTC) - timedelta(seconds=40.5)
    each = Stranded(
        kind="operation", subject="op-1", message="nobody drives op-1", since=since, hint="mcpg-ctl version"
    )
    fake.says("GET", "/v1/stranded", data([each.model_dump(mode="json")] * 6))
    one = "Stranded       for 40s: nobody drives op-1; mcpg-ctl version"
    assert lines_of(ctl("status"), "Stranded") == [*[one] * 4, "Stranded       2 more: mcpg-ctl status -o json"]


def test_gateways_that_run_another_program_than_was_chosen_are_named(
    ctl: Ctl, record: Callable[..., dict[str, Any]], fake: Fake, tmp_path: Path
) -> None:
    """As what was chosen says its version now, where it can still be asked."""
    path = tmp_path / "mcpg"
    path.write_text("#!/bin/sh\necho mcpg 9.9\n")
    path.chmod(0o755)
    record(gateway="mcpg 9.8", gateway_path=str(path))
    fake.says("GET", "/v1/meta", data(META))
    fake.says("GET", "/v1/replicas", data([]))
    fake.says("GET", "/v1/stranded", data([]))
    old, new, gone = ({"state": s, "version": v} for s, v in (("online", "9.8"), ("online", "9.9"), ("departed", "1")))
    gateways = [
        {"instance_uid": "u-1", "name": "edge-1", "managed": True, "agents": [old, old, new, gone]},
        {"instance_uid": "u-2", "name": "edge-2", "managed": True, "agents": [new]},
        {"instance_uid": "laptop", "managed": False, "agents": [old]},
    ]
    fake.says("GET", "/v1/instances", data(gateways))
    [line] = lines_of(ctl("status"), "Other program")
    assert line == "Other program  edge-1 runs 9.8, not what the control plane here chose; mcpg-ctl instance show u-1"
    found = {"instance_uid": "u-1", "name": "edge-1", "version": "9.8"}
    assert ctl("status", "-o", "json").json["other_programs"] == [found]
    path.unlink()  # it ran before it went
    assert [each["name"] for each in ctl("status", "-o", "json").json["other_programs"]] == ["edge-1", "edge-2"]
    record(gateway=None, gateway_path=None)
    assert ctl("status", "-o", "json").json["other_programs"] is None


def test_what_the_database_says_where_nobody_answers_is_never_that_somebody_lives(
    ctl: Ctl, state: Path, migrated: Path, record: Callable[..., dict[str, Any]], fake: Fake
) -> None:
    state.mkdir()
    shutil.copy(migrated, state / "cp-state.db")
    began = int((time.time() - 130) * 1e6)
    with closing(sqlite3.connect(state / "cp-state.db")) as db:
        columns = "id,epoch,host,pid,version,http_url,started_at,seen_at"
        db.execute("DELETE FROM replica")
        db.executemany(
            f"INSERT INTO replica({columns}) VALUES(?,?,'h',1,'0.1.0',?,?,?)",
            [("rep-1", "r-1", "http://one.test", began, began), ("rep-2", "r-2", "http://two.test", began + 1, 0)],
        )
        db.commit()
    assert lines_of(ctl("status"), "Replicas") == [
        "Replicas       http://one.test 0.1.0 (gone, started 2m ago); 1 stopped"
    ]
    printed = ctl("status", "-o", "json").json
    assert ([each["state"] for each in printed["replicas"]], printed["stranded"]) == (["late", "left"], None)
    assert [each["seen_at"] for each in printed["replicas"]] == [None, None], "no heartbeat is written to a file"
    record(http_url="http://127.0.0.1:9")
    assert lines_of(ctl("status"), "Replicas") == [
        "Replicas       http://one.test 0.1.0 (this one, does not answer, started 2m ago); 1 stopped"
    ]
    record(start_ticks=1)  # it was killed
    assert lines_of(ctl("status"), "Replicas") == [
        "Replicas       http://one.test 0.1.0 (this one, gone, started 2m ago); 1 stopped"
    ]
    record()  # one that answers, and is too old to know the question
    fake.says("GET", "/v1/meta", data(META))
    assert lines_of(ctl("status"), "Replicas") == [
        "Replicas       http://one.test 0.1.0 (this one, seen now); 1 stopped"
    ]


async def test_one_that_has_a_file_to_itself_and_was_stopped_is_stopped(start_plane: Any, tmp_path: Path) -> None:
    """It writes no heartbeat; that it stopped, it writes."""

    def said() -> list[tuple[str, str | None]]:
        found = peers.look(running.look(tmp_path), place("", tmp_path, {}))["replicas"]
        return [(each["state"], each["seen_at"]) for each in found]

    async with start_plane(tmp_path):
        assert [state for state, _ in await asyncio.to_thread(said)] == ["living"]
    assert said() == [("left", None)]
    async with start_plane(tmp_path):
        assert [state for state, _ in await asyncio.to_thread(said)] == ["living"]
