"""What each command imports, read off sys.modules: the start-up time itself is a benchmark, this is why it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from .fake import GATEWAYS, HAPPY, OPERATION, Fake, data, operation, stream

REPORT = """
import json, os, sys
before = set(sys.modules)
from mcpg.cli.main import main
code = main()
print(json.dumps([code, sorted(set(sys.modules) - before)]), file=os.fdopen(int(os.environ["REPORT"]), "w"))
"""
HEAVY = {"sanic", "tortoise", "grpc", "pydantic", "pydantic_settings", "click", "rich", "transitions", "yaml", "jinja2"}
HELP = ["--version", "--help", "", "provision --help", "provision create --help", "serve --help", "help exit-codes"]


def modules(typed: str, **environ: str) -> tuple[int, set[str]]:
    """The exit code and every module that the command loaded."""
    read, write = os.pipe()

    process = subprocess.Popen(
        [sys.executable, "-c", REPORT, *typed.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(write,),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "REPORT": str(write), **environ},
    )
    os.close(write)
    with os.fdopen(read) as report:
        found: list[Any] = json.loads(report.read())
    process.wait()
    return found[0], set(found[1])


@pytest.mark.parametrize("typed", HELP)
def test_help_and_version_load_nothing_but_the_table(typed: str) -> None:
    """Not even `re` or `json`: only what Python itself has loaded, and the table's own files."""
    code, loaded = modules(typed)
    ours = {name for name in loaded if name.startswith("mcpg")}
    assert (code, loaded - ours) == (0, set())
    front = {f"mcpg.cli.{name}" for name in ("commands", "helptext", "main", "options", "parse", "table", "topics")}
    assert {name for name in ours if not name.startswith("mcpg.cli.commands.")} <= {"mcpg", "mcpg.cli", *front}


def test_the_module_can_be_run() -> None:
    """mcpg/provisioners starts gateways with `python -m mcpg.cli.main gateway`."""
    command = [sys.executable, "-m", "mcpg.cli.main", "--version"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"mcpg-ctl 0.1.0\n"


@pytest.fixture
def environ(fake: Fake) -> dict[str, str]:
    fake.says("POST", GATEWAYS, stream(*HAPPY))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(operation()))
    fake.says("GET", "/v1/orgs/acme/operations", data([operation()]))
    return {"MCPG_CP_URL": fake.url, "MCPG_ORG": "acme", "MCPG_WORKSPACE": "prod", "MCPG_ENV": "us"}


@pytest.mark.parametrize(
    "typed", ["provision create --name edge-1", "provision history", "provision history -o json", "status", "version"]
)
def test_a_client_command_loads_no_server_and_no_settings(environ: dict[str, str], typed: str) -> None:
    code, loaded = modules(typed, **environ)
    assert (code, {name.partition(".")[0] for name in loaded} & HEAVY) == (0, set())


@pytest.mark.parametrize("typed", ["status", "version"])
def test_a_command_without_a_connection_loads_no_http_client(typed: str) -> None:
    code, loaded = modules(typed)
    assert (code, loaded & {"httpx", "ssl", "asyncio", "email"}) == (0, set())


def test_only_client_py_imports_httpx() -> None:
    from pathlib import Path

    import mcpg.cli

    folder = Path(mcpg.cli.__file__).parent
    importers = [path.name for path in folder.glob("*.py") if "import httpx" in path.read_text()]
    assert importers == ["client.py"]
