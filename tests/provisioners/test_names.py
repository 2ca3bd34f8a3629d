"""What a provisioner is called with: ids that are no paths, programs that are none, logs that hold secrets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.engine import config
from mcpg.errors import PermanentError, TemporaryError
from mcpg.host.binary import OWN_VERSION, find_gateway
from mcpg.host.words import last_words
from mcpg.provisioners.local import Local
from mcpg.provisioners.noop import Noop
from mcpg.provisioners.replica import Shelf

from .conftest import SLEEPER, Exits, enrol, order

Make = Callable[..., Local]
Fake = Callable[[str], str]


@pytest.mark.parametrize("bad", ["../../etc", "", "x", "0" * 36, "A" * 8 + "-0000-0000-0000-000000000000"])
async def test_no_name_escapes_the_state_directory(bad: str, make: Make, fake: Fake) -> None:
    local = make(fake(SLEEPER))
    for call in (local.apply(order(bad)), local.remove(bad), local.probe(bad)):
        with pytest.raises(PermanentError, match="cannot be an instance id"):
            await call


async def test_an_operation_id_is_no_path(make: Make, fake: Fake, instance_id: str) -> None:
    with pytest.raises(PermanentError, match="cannot be an operation id"):
        await make(fake(SLEEPER)).apply(order(instance_id, "../op"))


async def test_a_setting_that_names_no_program_is_said_when_a_gateway_is_wanted(
    make: Make, tmp_path: Path, instance_id: str, exits: Exits
) -> None:
    local = make(str(tmp_path / "nothing"))
    await local.start(exits)
    with pytest.raises(TemporaryError) as caught:
        await local.apply(order(instance_id))
    assert str(tmp_path / "nothing") in caught.value.what
    assert "MCPG_CP_GATEWAY_BIN" in caught.value.cause


async def test_a_program_that_cannot_be_executed_says_so(make: Make, tmp_path: Path, instance_id: str) -> None:
    program = tmp_path / "odd"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(PermanentError, match=r"exit code 12[67]") as caught:
        await make(str(program)).apply(order(instance_id))
    assert "odd" in caught.value.cause


def test_the_gateway_is_the_setting_then_path_then_cache_then_our_own(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    own = find_gateway("")
    assert (own.kind, own.argv[1:], own.version) == ("own", ("-m", "mcpg.cli.main", "gateway"), OWN_VERSION)
    cached = tmp_path / "cache" / "node_modules/@mcpg-dev/cli-linux-x64/bin/mcpg"
    on_path = tmp_path / "bin" / "mcpg"
    for path in (cached, on_path):
        path.parent.mkdir(parents=True)
        Path(fake(SLEEPER)).rename(path)
        assert find_gateway("", (tmp_path / "cache",)).path == str(path)
    named = find_gateway(fake(SLEEPER), (tmp_path / "cache",))
    assert named.path != str(on_path)
    assert (named.kind, named.version) == ("mcpg", "fake 1.0")


async def test_our_own_agent_is_told_by_its_environment(
    make: Make, tmp_path: Path, instance_id: str, state_dir: Path
) -> None:
    program = tmp_path / "mcpg-ctl"
    program.write_text("#!/bin/sh\nexec sleep 3600\n")
    program.chmod(0o755)
    (placed,) = await make(str(program)).apply(order(instance_id))
    environ = Path(f"/proc/{placed.pid}/environ").read_text().split("\0")
    assert f"MCPG_ENROLLMENT_URL={await enrol(1)}" in environ
    assert {"MCPG_INSTANCE_UID=uid-1", "MCPG_CP_GRPC=http://127.0.0.1:9"} <= set(environ)
    boot = (state_dir / "gateways" / instance_id / "replica-1" / "gateway.yaml").read_text()
    assert config.booted(boot) == (f"127.0.0.1:{placed.port}", {})


def test_a_large_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    replica = Shelf(tmp_path / "gateways").replica("00000000-0000-0000-0000-000000000000", 1)
    assert replica.prepare() == 0
    with replica.log.open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    assert replica.prepare() == 0
    assert not replica.log.exists()
    assert (replica.directory / "log.1").exists()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("one\ntwo\n\x1b[31mthree\x1b[0m\x07\nfour\n", "two\nthree\nfour"),
        (
            '{"level":"INFO","fields":{"message":"up"}}\n{"level":"ERROR","fields":{"message":"no","error":"x\\ny"}}\n',
            "no: x y",
        ),
        ("Error: a\n\nCaused by:\n    b\n    c\n\nStack backtrace:\n   0: d\n", "Error: a: b: c"),
        ("thread 'main' panicked at x.rs:1:\nboom\n", "thread 'main' panicked at x.rs:1:\nboom"),
        ("#token=ENROL-a.b_c and eyJhbGciOi.eyJzdWIi.c2ln\n", "#token=*** and ***"),
        ('{"fields": []}\n', '{"fields": []}'),
        ("x" * 500 + "\n", "x" * 399 + "…"),
    ],
)
def test_last_words(log: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert words == last_words(tmp_path / "log")


async def test_the_noop_provisioner_places_nothing_real() -> None:
    noop = Noop()
    (placed,) = await noop.apply(order("any"))
    assert (placed.pid, placed.port, placed.endpoints, noop.observes) == (0, 0, (), False)
    assert (await noop.remove("any")).detail == "nothing was running"
