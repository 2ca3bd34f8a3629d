"""The server itself: probes, who may talk to it, its state directory, and the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mcpg.errors import McpgError, StateDirBusy, Usage
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane


async def test_probes_and_meta(plane: Plane) -> None:
    assert (await plane.client.get("/healthz")).text == "ok\n"
    ready = (await plane.client.get("/readyz")).json()
    assert ready == {"ready": True, "checks": {"stopping": False, "database": "ok", "writes": "ok"}}
    meta = (await plane.client.get("/v1/meta")).json()
    assert (meta["product"], meta["auth_mode"], meta["pid"]) == ("mcpg-control-plane", "none", os.getpid())
    assert meta["replica"] == plane.engine.epoch


async def test_default_default_default_exists_at_boot(plane: Plane) -> None:
    get = plane.client.get
    assert [o["slug"] for o in (await get("/v1/orgs")).json()] == ["default"]
    assert [w["slug"] for w in (await get("/v1/orgs/default/workspaces")).json()] == ["default"]
    environments = (await get("/v1/orgs/default/workspaces/default/environments")).json()
    assert [e["slug"] for e in environments] == ["default"]


async def test_lists_are_bare_arrays_and_times_are_rfc3339(plane: Plane) -> None:
    """The real tenant CLI decodes nothing else."""
    await plane.publish("edge-1")
    for path in ("/v1/orgs", "/v1/orgs/default/operations", "/v1/orgs/default/instances", "/v1/clusters"):
        assert isinstance((await plane.client.get(path)).json(), list)
    operation = (await plane.client.get("/v1/orgs/default/operations")).json()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", operation["started_at"])
    assert operation["error"] == "", "null is refused by the tenant CLI"


async def test_an_enrolment_token_is_minted_with_the_secret_in_the_fragment(plane: Plane) -> None:
    answer = await plane.client.post(plane.tokens, json={"one_shot": True, "ttl_ms": 600})
    token = answer.json()
    assert answer.status_code == 201
    assert token["enrollment_url"] == f"{plane.url}/enroll/v1#token={token['token']}"
    assert token["token"].startswith("ENROL-")
    for table in ("bootstrap_token", "journal", "operation", "instance", "agent"):
        rows = await plane.db.many(f"SELECT * FROM {table}")  # noqa: S608
        assert token["token"].partition("-")[2] not in str(rows), "only its hash is kept"


@pytest.mark.parametrize("body", [{"ttl_ms": 0}, {"ttl_ms": 10**9}, {"max_uses": 0}, {"ttl_ms": "600"}])
async def test_a_token_request_out_of_range_is_refused(plane: Plane, body: dict[str, object]) -> None:
    answer = await plane.client.post(plane.tokens, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_spec")


# ---- who may talk to it


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7843", "127.0.0.1.evil.example", "", "[::1"])
async def test_a_host_that_is_not_ours_is_turned_away(plane: Plane, host: str) -> None:
    """A page that has rebound its name to 127.0.0.1 must not reach a server without a login."""
    answer = await plane.client.get("/v1/orgs", headers={"Host": host})
    assert answer.status_code in (400, 421)


async def test_a_foreign_page_cannot_create(plane: Plane) -> None:
    answer = await plane.client.post(
        plane.gateways, json={"name": "edge-1"}, headers={"Origin": "https://evil.example"}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert await plane.instances() == []


async def test_another_port_of_this_machine_is_another_site(plane: Plane) -> None:
    """A page that some other server on this machine delivers may not ask for gateways either."""
    for origin, status in (("http://127.0.0.1:1", 403), ("null", 403), (plane.url, 200)):
        answer = await plane.client.post(plane.gateways, json={"name": "edge-1"}, headers={"Origin": origin})
        assert answer.status_code == status, origin


@pytest.mark.parametrize("database", ["sqlite"])
async def test_a_database_that_was_deleted_under_us_is_noticed(plane: Plane) -> None:
    (plane.state_dir / "cp-state.db").unlink()
    ready = await plane.client.get("/readyz")
    assert ready.status_code == 503
    assert "deleted or replaced" in ready.json()["checks"]["database"]


async def test_localhost_names_are_ours(plane: Plane) -> None:
    port = plane.url.rsplit(":", 1)[1]
    assert (await plane.client.get("/v1/orgs", headers={"Host": f"localhost:{port}"})).status_code == 200


async def test_an_unforeseen_error_tells_its_request_id_and_nothing_else(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mcpg.store import tenancy

    async def broken(db: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(tenancy, "orgs", broken)
    answer = await plane.client.get("/v1/orgs")
    assert (answer.status_code, answer.json()["code"]) == (500, "error")
    assert "secret detail" not in answer.text
    assert answer.json()["request_id"] in caplog.text


# ---- the state directory


async def test_a_second_server_on_a_state_directory_is_refused_and_told_of_the_first(
    plane: Plane, start_plane: StartPlane
) -> None:
    with pytest.raises(StateDirBusy) as refused:
        async with start_plane(plane.state_dir):
            pass
    assert f"pid {os.getpid()}" in refused.value.what
    assert plane.url in refused.value.what
    assert (await plane.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("way", ["its own name", "a symbolic link", "the first one's default"])
async def test_a_second_server_on_an_sqlite_file_is_refused_whatever_its_state_directory_is(
    start_plane: StartPlane, tmp_path: Path, way: str
) -> None:
    """Two writers on one file would each take what the other drives."""
    file, state = tmp_path / "files" / "cp.db", tmp_path / "one"
    if way == "the first one's default":
        file = state / "cp-state.db"
    second = file
    if way == "a symbolic link":
        second = tmp_path / "link.db"
        second.symlink_to(file)
    for each in (state, tmp_path / "two"):
        each.mkdir()
    first = "" if way == "the first one's default" else f"sqlite:{file}"
    async with start_plane(state, db_url=first) as plane:
        with pytest.raises(StateDirBusy) as refused:
            async with start_plane(tmp_path / "two", db_url=f"sqlite:{second}"):
                pass
        words = f"another control plane works on the database {second}: pid {os.getpid()}, {plane.url}, since "
        assert refused.value.what.startswith(words)
        assert (await plane.client.get("/readyz")).status_code == 200
    async with start_plane(tmp_path / "two", db_url=f"sqlite:{second}"):
        assert stat.S_IMODE(file.with_name(f"{file.name}.lock").stat().st_mode) == 0o600


async def test_the_card_says_what_runs_and_goes_with_it(start_plane: StartPlane, tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with start_plane(state) as plane:
        card = json.loads((state / "server.json").read_text())
        assert (card["http_url"], card["pid"]) == (plane.url, os.getpid())
        assert stat.S_IMODE((state / "server.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((state / "server.lock").stat().st_mode) == 0o600
    assert not (state / "server.json").exists()


async def test_a_port_that_is_taken_is_named_with_its_flag(
    plane: Plane, start_plane: StartPlane, tmp_path: Path
) -> None:
    for flag, bind in (("bind_http", plane.url.removeprefix("http://")), ("bind_grpc", plane.grpc)):
        with pytest.raises(McpgError) as refused:
            async with start_plane(tmp_path / flag, **{flag: bind}):
                pass
        assert bind in refused.value.what
        assert flag.replace("_", "-") in refused.value.hint
        assert not (tmp_path / flag / "server.json").exists()


@pytest.mark.parametrize("bind", ["7843", "localhost", "127.0.0.1:", "127.0.0.1:99999", ":7843", "127.0.0.1:x"])
async def test_a_bind_that_is_no_address_is_refused(start_plane: StartPlane, bind: str) -> None:
    with pytest.raises(Usage):
        async with start_plane(bind_http=bind):
            pass


async def test_a_read_only_state_directory_is_refused(start_plane: StartPlane, tmp_path: Path) -> None:
    """Checked as another user, for root may write anywhere."""
    code = (
        "import os,sys\nfrom pathlib import Path\nfrom mcpg.store.database import prepare_directory\n"
        "from mcpg.errors import StateDirUnusable\nos.setuid(65534)\n"
        "try: prepare_directory(Path(sys.argv[1]))\n"
        "except StateDirUnusable as e: print(e.what, '|', e.cause)\n"
    )
    folder = tmp_path / "ro"
    folder.mkdir()
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(0o555)
    if os.getuid() != 0:
        code = code.replace("os.setuid(65534)\n", "")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert "cannot be used | Permission denied" in done.stdout, done.stderr


# ---- the page


async def test_the_page_is_true_and_safe(plane: Plane) -> None:
    await plane.publish("edge-1")
    await plane.publish("edge-2", region="mars-1")
    answer = await plane.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert re.search(r"edge-1.*no cluster can take edge-2", answer.text, re.DOTALL)
    assert "1 of 20" in answer.text
    assert not re.search(r'(src|href)="(https?:)?//', answer.text), "nothing is fetched from elsewhere"


async def test_every_operation_of_the_page_is_exported_as_the_command_does_it(plane: Plane) -> None:
    await plane.publish("edge-1")
    await plane.publish("edge-2", region="mars-1")
    links = re.findall(r'href="([^"]+)" download="(op-\w+)\.json"', (await plane.client.get("/")).text)
    assert len(links) == 2
    for href, operation in links:
        argv = ["-m", "mcpg.cli.main", "operation", "export", operation, "--cp-url", plane.url]
        ran = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
        said, _ = await ran.communicate()
        assert ran.returncode == 0
        assert (await plane.client.get(href)).content == said


async def test_text_from_outside_cannot_become_markup(plane: Plane) -> None:
    await plane.publish("edge-1", region="<script>alert(1)</script>")
    page = (await plane.client.get("/")).text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


async def test_an_empty_page_says_what_to_do_next(plane: Plane) -> None:
    assert "mcpg-ctl provision create" in (await plane.client.get("/")).text


async def test_the_enrolment_page_shows_no_secret(plane: Plane) -> None:
    assert "is a secret" in (await plane.client.get("/enroll/v1")).text


async def test_a_real_browser_renders_the_page_without_a_violation(plane: Plane, tmp_path: Path) -> None:
    from playwright.async_api import async_playwright

    browser_path = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if browser_path is None:
        pytest.fail("no Chromium: run tools/chromium.sh", pytrace=False)
    await plane.publish("edge-1")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=browser_path,
            timeout=BOUND_S * 1000,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        page = await browser.new_page()
        page.set_default_timeout(BOUND_S * 1000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        await page.goto(plane.url + "/")
        assert await page.title() == "MCPG control plane"
        assert await page.locator("h2").all_inner_texts() == ["Gateways 1", "Operations 1", "Clusters 1"]
        async with page.expect_download() as expected:
            await page.get_by_role("link", name="export op-").click()
        download = await expected.value
        background = await page.evaluate("getComputedStyle(document.querySelector('header')).borderBottomStyle")
        saved = await download.path()
        assert saved.read_bytes() == (await plane.client.get(download.url)).content
        name = download.suggested_filename
        await browser.close()
    assert re.fullmatch(r"op-\w+\.json", name)
    assert background == "solid", "the stylesheet was applied"
    assert said == []
