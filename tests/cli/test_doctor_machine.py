"""`doctor` on this machine and this installation: each check made to fail for real, and to pass."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mcpg.cli.checks.machine import PACKAGE, unmet

from .doctoring import *  # noqa: F403  fixtures
from .doctoring import Examine, Said
from .fake import Fake, data


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this installation's metadata that comes first on the path: to be changed."""
    folder = tmp_path / "site" / f"{PACKAGE.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(str(metadata.distribution(PACKAGE).read_text("METADATA")))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder / "METADATA"


def test_this_python_is_fine(examine: Examine) -> None:
    ours = ".".join(map(str, sys.version_info[:3]))
    assert examine("python") == Said("pass", f"{ours} (needs >=3.11)", "")


def test_a_python_that_is_too_old(examine: Examine, installed: Path) -> None:
    installed.write_text(installed.read_text().replace("Requires-Python: >=3.11", "Requires-Python: >=4.0"))
    ours = ".".join(map(str, sys.version_info[:3]))
    expected = Said("fail", f"{ours}, and {PACKAGE} needs >=4.0", f"pipx install --python python3.11 {PACKAGE}")
    assert examine("python") == expected


def test_these_packages_are_fine(examine: Examine) -> None:
    said = examine("packages")
    assert (said.status, said.detail.endswith(f"in versions that {PACKAGE} 0.1.0 takes")) == ("pass", True)


def test_a_package_that_is_missing_and_one_that_is_too_old(examine: Examine, installed: Path) -> None:
    httpx = metadata.version("httpx")
    text = installed.read_text().replace("Requires-Dist: httpx<0.29,>=0.28.1", "Requires-Dist: httpx>=9")
    installed.write_text(
        text.replace("Requires-Dist: sanic", "Requires-Dist: not-there-at-all>=2\nRequires-Dist: sanic")
    )
    said = examine("packages")
    assert said.status == "fail"
    assert set(said.detail.split("; ")) == {f"httpx is {httpx}, needs >=9", "not-there-at-all is missing"}
    assert said.fix.startswith(f"{sys.executable} -m pip install ")
    assert set(said.fix.split(" ")[4:]) == {"'httpx>=9'", "'not-there-at-all>=2'"}


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("1.85.1", ">=1.85.1,<2", ""),
        ("1.85.10", ">=1.85.9", ""),
        ("1.85", ">=1.85.0", ""),
        ("2.0", "<2,>=1.85.1", "<2"),
        ("2.0.0rc1", "<2", "<2"),
        ("1.9", ">=1.85", ">=1.85"),
        ("1.0.post1", ">=1.0", ""),
        ("1.0", "!=1.0", "!=1.0"),
        ("1.1", "~=1.0", ""),
        ("nonsense", ">=1", ">=1"),
        ("3.11.7", "", ""),
    ],
)
def test_versions_are_compared_as_numbers(version: str, wanted: str, expected: str) -> None:
    assert unmet(version, wanted) == expected


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_few_files_may_be_open(examine: Examine, few_files: None) -> None:
    said = examine("file-limit")
    able = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    assert said == Said("warn", "512: a control plane with many gateways and viewers needs more", f"ulimit -n {able}")


def test_enough_files_may_be_open(examine: Examine) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    try:
        assert examine("file-limit") == Said("pass", "2048", "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def program(folder: Path, name: str, script: str, mode: int = 0o755) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Said("skip", "no DISPLAY: quickstart prints the URL instead", "")),
        (
            {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"},
            Said("skip", "over SSH, and no DISPLAY: quickstart prints the URL instead", ""),
        ),
        (
            {"DISPLAY": ":0"},
            Said("skip", "there is a display and no program to open a page with: quickstart prints the URL too", ""),
        ),
        ({"WAYLAND_DISPLAY": "wayland-0", "BROWSER": "lynx"}, Said("pass", "lynx", "")),
    ],
    ids=["no display", "ssh", "no opener", "wayland"],
)
def test_a_browser(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], expected: Said
) -> None:
    program(tmp_path / "bin", "lynx", "true")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("SSH_CONNECTION", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert examine("browser") == expected


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_no_proxy_at_all(examine: Examine, no_proxy: None) -> None:
    assert examine("proxy") == Said("pass", "none in the environment", "")


def test_a_proxy_that_also_takes_loopback(examine: Examine, no_proxy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its password is not shown."""
    monkeypatch.setenv("https_proxy", "http://ada:canary@proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "localhost, .corp.test")
    words = "HTTPS_PROXY (proxy.test:3128) also takes 127.0.0.1: gateways reach this machine's gRPC through it, or not at all"
    keep = "localhost,.corp.test,127.0.0.1"
    assert examine("proxy") == Said("warn", words, f"export NO_PROXY='{keep}' no_proxy='{keep}'")


@pytest.mark.parametrize("exempt", ["127.0.0.1,localhost", "*"])
def test_a_proxy_for_the_outside_only(
    examine: Examine, no_proxy: None, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.test:3128")
    monkeypatch.setenv("no_proxy", exempt)
    assert examine("proxy") == Said("pass", "HTTP_PROXY (proxy.test:3128), not for loopback", "")


def test_the_gateway_that_the_setting_names(examine: Examine, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "mcpg", "echo mcpg 9.9")
    assert examine("gateway-binary", "--gateway-bin", str(path)) == Said("pass", f"mcpg 9.9, {path}", "")


def test_a_gateway_that_may_not_be_executed(examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "my bin", "mcpg", "echo mcpg 9.9", 0o644)
    monkeypatch.setenv("MCPG_CP_GATEWAY_BIN", str(path))
    words = f"{path}, named by MCPG_CP_GATEWAY_BIN, cannot be run: it is not executable"
    assert examine("gateway-binary") == Said("fail", words, f"chmod +x '{path}'")


def test_a_gateway_that_is_not_there(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_CONTROL_PLANE_GATEWAY_BIN", "/nonexistent/mcpg")
    words = "/nonexistent/mcpg, named by MCPG_CONTROL_PLANE_GATEWAY_BIN, cannot be run: there is no such file"
    assert examine("gateway-binary") == Said("fail", words, "unset MCPG_CONTROL_PLANE_GATEWAY_BIN")


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 60"], ids=["fails", "hangs"])
def test_a_gateway_that_does_not_say_its_version(examine: Examine, tmp_path: Path, script: str) -> None:
    path = program(tmp_path / "bin", "mcpg", script)
    expected = Said("fail", f"{path} does not say its version", f"{path} --version")
    assert examine("gateway-binary", "--gateway-bin", str(path)) == expected


@pytest.fixture
def chose(state: Path, answering: Fake) -> Callable[[str, str], None]:
    """`chose(path, version)`: a control plane runs here that chose this gateway when it started; server.json says so."""

    def card(path: str, version: str) -> None:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        found = {"pid": os.getpid(), "start_ticks": int(ticks), "http_url": answering.url, "replica": "r-1"}
        state.mkdir(exist_ok=True, mode=0o700)
        (state / "server.json").write_text(json.dumps(found | {"gateway": version, "gateway_path": path}))

    return card


def test_a_gateway_that_was_chosen_and_has_gone(
    examine: Examine, chose: Callable[[str, str], None], tmp_path: Path
) -> None:
    path = program(tmp_path / "bin", "mcpg", "echo mcpg 9.9")
    chose(str(path), "mcpg 9.9")
    words = f"mcpg 9.9, {path}, chosen by the control plane here when it started"
    assert examine("gateway-binary") == Said("pass", words, "")
    path.unlink()
    said = examine("gateway-binary")
    words = f"{path}, chosen by the control plane here when it started, cannot be run: there is no such file"
    assert said == Said("fail", f"{words}; gateways wait for it", "mcpg-ctl cluster health")


def test_a_gateway_that_runs_another_program_than_was_chosen(
    examine: Examine, chose: Callable[[str, str], None], answering: Fake, tmp_path: Path
) -> None:
    path = program(tmp_path / "bin", "mcpg", "echo mcpg 9.9-beta.1")
    chose(str(path), "mcpg 9.9-beta.1")
    agents = [{"state": "online", "version": "9.9-beta.1"}, {"state": "online", "version": "0.1.0"}]
    found = {"instance_uid": "uid-2", "name": "edge-2", "managed": True, "agents": agents}
    self_enrolled = {"instance_uid": "laptop", "managed": False, "agents": [{"state": "online", "version": "0.1.0"}]}
    answering.says("GET", "/v1/instances", data([found, self_enrolled]))
    words = f"mcpg 9.9-beta.1, {path}, chosen by the control plane here when it started; edge-2 runs 0.1.0"
    assert examine("gateway-binary") == Said("warn", words, "mcpg-ctl instance show uid-2")
    path.write_text("#!/bin/sh\nexit 1\n")
    assert examine("gateway-binary") == Said("fail", f"{path} does not say its version", f"{path} --version")
    chose("", "mcpg-ctl 0.1.0")
    answering.says("GET", "/v1/instances", data([found | {"agents": agents[1:]}]))
    words = "mcpg-ctl 0.1.0, our own agent, chosen by the control plane here when it started"
    assert examine("gateway-binary") == Said("pass", words, "")
