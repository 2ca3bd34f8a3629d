"""What each command imports, read off sys.modules: the start-up time itself is a benchmark, this is why it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli.commands import COMMANDS
from mcpg.machines import TABLES

from .checking import audit_page, explanation, export, upgrade_page
from .fake import GATEWAYS, HAPPY, OPERATION, UID, Fake, data, operation, stream

REPORT = """
import json, os, sys
before = set(sys.modules)
from mcpg.cli.main import main
code = main()
print(json.dumps([code, sorted(set(sys.modules) - before)]), file=os.fdopen(int(os.environ["REPORT"]), "w"))
"""
HEAVY = {"sanic", "tortoise", "grpc", "pydantic", "pydantic_settings", "click", "rich", "transitions", "yaml", "jinja2"}
HELP = [
    "--version",
    "--help",
    "",
    "provision --help",
    "provision create --help",
    "serve --help",
    "help exit-codes",
    "cluster --help",
]


def modules(typed: str | list[str], **environ: str) -> tuple[int, set[str]]:
    """The exit code and every module that the command loaded."""
    read, write = os.pipe()

    process = subprocess.Popen(
        [sys.executable, "-c", REPORT, *(typed.split() if isinstance(typed, str) else typed)],
        stdin=subprocess.DEVNULL,
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


SERVERS = ("quickstart", "serve", "gateway")  # they start something, and may load what that needs
ALONE = ("context", "config", "completion", "version")  # nothing but the standard library
ARGUMENTS = {  # for the commands that need some; those that start something are refused before they do
    "quickstart": "--bind-http 0.0.0.0:1",
    "serve": "--bind-http 0.0.0.0:1",
    "provision create": "--name edge-1",
    "provision delete": f"--instance-uid {UID} --yes",
    "operation show": OPERATION,
    "operation attach": OPERATION,
    "operation resume": OPERATION,
    "operation retry": OPERATION,
    "operation cancel": f"{OPERATION} --yes",
    "operation watch": OPERATION,
    "operation wait": OPERATION,
    "operation export": OPERATION,
    "operation explain": OPERATION,
    "operation replay": OPERATION,
    "machine show": "provision",
    "machine check": "agent",
    "machine diff": "provision teardown",
    "instance show": UID,
    "instance adopt": UID,
    "instance reap": f"{UID} --yes",
    "cluster show": "local",
    "cluster register": "--name eu-1 --region eu --gateways-max 1",
    "cluster drain": "local",
    "cluster undrain": "local",
    "cluster decommission": "local",
    "token revoke": "tok-1",
    "login": "--issuer http://127.0.0.1:1 --no-browser",
    "context add": "prod",
    "context use": "none",
    "context rm": "prod",
    "completion": "bash",
}
LINES = {" ".join(each.words): f"{' '.join(each.words)} {ARGUMENTS.get(' '.join(each.words), '')}" for each in COMMANDS}


@pytest.fixture
def environ(fake: Fake, tmp_path: Path) -> dict[str, str]:
    """A control plane that knows one operation; what else is asked for is not found, after everything is loaded."""
    fake.says("POST", GATEWAYS, stream(*HAPPY))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(operation()))
    fake.says("GET", f"/v1/operations/{OPERATION}", data(operation()))
    fake.says("GET", f"/v1/operations/{OPERATION}/explain", data(explanation()))
    fake.says("GET", f"/v1/operations/{OPERATION}/export", data(export()))
    fake.says("GET", "/v1/audit/verify", data(audit_page()))
    fake.says("POST", "/v1/machines/upgrade-check", data(upgrade_page()))
    for name in ("provision", "teardown"):
        fake.says("GET", f"/v1/machines/definitions/{name}", data({"body": TABLES[name].canonical}))
    fake.says("GET", "/v1/orgs/acme/operations", data([operation()]))
    for path in ("operations", "machines", "instances", "clusters"):
        fake.says("GET", f"/v1/{path}", data([]))
    place = {"MCPG_ORG": "acme", "MCPG_WORKSPACE": "prod", "MCPG_ENV": "us"}
    return {"MCPG_CP_URL": fake.url, "HOME": str(tmp_path), **place}


def third_party(loaded: set[str]) -> list[str]:
    """Top-level names that are neither Python's nor ours."""
    names = {name.partition(".")[0] for name in loaded}
    return sorted(name for name in names - sys.stdlib_module_names if name != "mcpg" and not name.startswith("_"))


@pytest.mark.parametrize("name", LINES)
def test_what_a_command_imports(environ: dict[str, str], snapshot: SnapshotAssertion, name: str) -> None:
    """The list is kept, so that a new import is seen by who reviews it."""
    code, loaded = modules(LINES[name], **environ)
    assert code in (0, 1, 2, 3, 5, 6), "it began"
    if name not in SERVERS:
        needs = {
            "gateway-status": {"yaml"},
            "machine check": {"transitions"},
        }  # the stored config; the tables, as they run
        allowed: set[str] = needs.get(name, set())
        assert {each.partition(".")[0] for each in loaded} & HEAVY <= allowed
    if name.partition(" ")[0] in ALONE:
        assert third_party(loaded) == []
    assert " ".join(third_party(loaded)) == snapshot


@pytest.mark.parametrize("name", [name for name in LINES if name.partition(" ")[0] in ALONE])
def test_a_command_that_sends_nothing_loads_no_network(environ: dict[str, str], name: str) -> None:
    _, loaded = modules(LINES[name], **environ)
    assert loaded & {"httpx", "ssl", "http.client", "asyncio", "email", "socket"} == set()


@pytest.mark.parametrize("typed", ["pro", "provision create --", "provision history --org ", "context use "])
def test_a_tab_loads_the_standard_library_only(environ: dict[str, str], fake: Fake, typed: str) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}]))
    code, loaded = modules(["__complete", "--", *typed.split(" ")], **environ)
    assert (code, third_party(loaded), "asyncio" in loaded) == (0, [], False)


def test_only_client_py_imports_httpx() -> None:
    import mcpg.cli

    folder = Path(mcpg.cli.__file__).parent
    importers = [path.name for path in folder.glob("*.py") if "import httpx" in path.read_text()]
    assert importers == ["client.py"]
