"""
`make demo`: the main job for real. From nothing to a gateway that an MCP client calls, its history, and back to nothing.

Every step is checked; exit 0 only if all of it was true. Everything lives in a temporary directory and on ports the
kernel chose, and is gone afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.streamable_http import streamable_http_client

ROOT = Path(__file__).parent.parent
CTL = Path(sys.executable).with_name("mcpg-ctl")
SCOPE = ["--org", "default", "--workspace", "default", "--env", "default"]


def say(title: str) -> None:
    print(f"\n\033[1m── {title}\033[0m" if sys.stdout.isatty() else f"\n── {title}", flush=True)


def check(truth: object, what: str) -> None:
    if not truth:
        raise SystemExit(f"demo: not true: {what}")


def ctl(*args: str, env: dict[str, str], capture: bool = True, quiet: bool = False) -> str:
    """Run mcpg-ctl as a person would; its talk goes to our stderr, its data comes back."""
    shown = " ".join(["mcpg-ctl", *args])
    if not quiet:
        print(f"$ {shown}", flush=True)
    done = subprocess.run(
        [CTL, *args], env=env, check=False, text=True, stdout=subprocess.PIPE if capture else None, cwd=ROOT
    )
    check(done.returncode == 0, f"`{shown}` exits 0 (it exited {done.returncode})")
    return done.stdout or ""


def wait_for(path: Path, server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The server's card, once it is written: everything answers then."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        check(server.poll() is None, "the control plane starts")
        if path.exists():
            return dict(json.loads(path.read_text()))
        time.sleep(0.05)
    raise SystemExit("demo: not true: the control plane is ready within 60 s")


async def call(endpoint: str) -> dict[str, Any]:
    """initialize, tools/list, tools/call with the official MCP client."""
    async with Client(streamable_http_client(endpoint)) as client:
        tools = await client.list_tools()
        result = await client.call_tool("demo.echo", {"text": "hello, gateway"})
        check(not result.is_error, "tools/call succeeds")
        return {"tools": [t.name for t in tools.tools], "answer": result.content[0].text}


def alive(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    )


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mcpg-demo-") as folder:
        state = Path(folder) / "state"
        env = {k: v for k, v in os.environ.items() if not k.startswith("MCPG_")}
        env |= {"MCPG_STATE_DIR": str(state), "HOME": folder}
        say("1. start the control plane, on SQLite, in a temporary directory")
        print("$ mcpg-ctl serve --bind-http 127.0.0.1:0 --bind-grpc 127.0.0.1:0", flush=True)
        log = (Path(folder) / "serve.log").open("wb")
        server = subprocess.Popen(
            [CTL, "serve", "--bind-http", "127.0.0.1:0", "--bind-grpc", "127.0.0.1:0"], env=env, stdout=log, stderr=log
        )
        try:
            story(wait_for(state / "server.json", server), state, env)
        except BaseException:
            print((Path(folder) / "serve.log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            stop(server, state)
    print(f"\ndone in {time.monotonic() - began:.1f} s: everything above was checked, nothing is left running")
    return 0


def story(card: dict[str, Any], state: Path, env: dict[str, str]) -> None:
    env["MCPG_CP_URL"] = card["http_url"]
    print(f"  API {card['http_url']}  gRPC {card['grpc_url']}  gateway: {card['gateway']}")

    say("2. create a gateway, and watch it become ready")
    out = ctl(
        "provision", "create", *SCOPE, "--name", "edge-1", "--config", "examples/echo.yaml", "-o", "json", env=env
    )
    created = json.loads(out)
    print(out, end="")
    check(created["endpoints"], "the gateway has an endpoint")

    say(f"3. call it with the official MCP client: {created['endpoints'][0]}")
    seen = asyncio.run(call(created["endpoints"][0]))
    print(f"  tools/list  {seen['tools']}\n  tools/call  {seen['answer']}")
    check(seen["tools"] == ["demo.echo"], "the gateway offers the config's one tool")
    check(json.loads(seen["answer"])["echo"] == {"text": "hello, gateway"}, "the tool echoes")

    say("4. what happened: every transition")
    print(ctl("provision", "history", "--org", "default", "--verbose", env=env), end="")

    say("5. remove it")
    operations = json.loads(
        ctl("provision", "history", "--org", "default", "--verbose", "-o", "json", env=env, quiet=True)
    )
    pids = [p for o in operations for line in o["history"] or [] for p in line["data"].get("pids", [])]
    check(pids and all(map(alive, pids)), "the gateway's process runs")
    ctl("provision", "delete", *SCOPE, "--instance-uid", created["instance_uid"], "--yes", env=env)
    check(not any(map(alive, pids)), "the gateway's process is gone")
    check(not any((state / "gateways").iterdir()), "nothing of it is left on disk")
    history = ctl("provision", "history", "--org", "default", "--verbose", env=env)
    print(history, end="")
    check("delete" in history and "create" in history, "the history shows both operations")
    ctl("status", env=env, capture=False)


def stop(server: subprocess.Popen[bytes], state: Path) -> None:
    """End what we started: the server by SIGTERM, and any gateway a failed demo left, by pid."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    for entry in Path("/proc").iterdir():
        try:
            mine = entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(state / "gateways"))
        except OSError:
            continue
        if mine:
            os.kill(int(entry.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
