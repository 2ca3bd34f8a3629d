"""
One control plane, and a story told to it by `mcpg-ctl` alone: the state that every command of this folder is run in.

`Story.tell` plays it against a real server process with the no-op provisioner. The commands that change something are
the story; what each of them printed is kept. `plain` takes out what differs from run to run, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bounds import BOUND_S

CANARY = "canary-5ecret-0f-this-run"
PLACE = {"MCPG_ORG": "default", "MCPG_WORKSPACE": "default", "MCPG_ENV": "default"}


class Ran(NamedTuple):
    """One run of the programme."""

    typed: str
    code: int
    out: str
    err: str


class Ctl:
    """`mcpg-ctl` as a person runs it: a process of its own, with nothing in the environment but what is given."""

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", **environ}

    def __call__(self, typed: str, **environ: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "mcpg.cli.main", *typed.split()],
            capture_output=True,
            text=True,
            check=False,
            timeout=BOUND_S,
            stdin=subprocess.DEVNULL,
            env={**self.environ, **environ},
            cwd=self.home,
        )
        return Ran(typed, done.returncode, done.stdout, done.stderr)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """A control plane as a process, on ports of the kernel's choice: its URL. It logs all it can to `server.log`."""
    command = [sys.executable, "-m", "mcpg.cli.main", "serve", "--provisioner", "noop", "--log-level", "debug"]
    log = home / "server.log"
    read, write = os.pipe()
    process = subprocess.Popen(
        [*command, "--bind-http", "127.0.0.1:0", "--bind-grpc", "127.0.0.1:0"],
        stderr=write,
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )
    os.close(write)
    ready = threading.Event()

    def copy() -> None:
        with os.fdopen(read, encoding="utf-8") as lines, log.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                file.flush()
                if "ready on" in line:
                    ready.set()
        ready.set()

    thread = threading.Thread(target=copy, name="log")
    thread.start()
    try:
        assert ready.wait(BOUND_S)
        yield str(json.loads((home / ".mcpg/server.json").read_text())["http_url"])
    finally:
        process.terminate()
        process.wait(BOUND_S)
        thread.join(BOUND_S)


class Story:
    """What was told, and where to ask about it. `ran` holds what each command of the story printed, in order."""

    def __init__(self, ctl: Ctl, url: str) -> None:
        self.ctl = ctl
        self.url = url
        self.ran: list[Ran] = []

    def tell(self, typed: str) -> Ran:
        ran = self.ctl(self.filled(typed))
        self.ran.append(ran._replace(typed=typed))
        return ran

    def filled(self, typed: str) -> str:
        """*typed* with `{uid:NAME}`, `{cluster:NAME}`, `{op:NAME}` and `{token}` replaced by what they are now."""
        return re.sub(r"\{(\w+):?([\w-]*)\}", lambda m: self._find(m[1], m[2]), typed)

    def _find(self, what: str, name: str) -> str:
        asked = {
            "uid": "instance list -o json",
            "cluster": "cluster list --all -o json",
            "op": f"operation list --name {name} -o json",
            "token": "token list -o json",
        }
        rows = json.loads(self.ctl(asked[what]).out)
        row = next(row for row in rows if not name or row["name"] == name)
        return str(row["instance_uid" if what == "uid" else "id"])


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
OPERATION = re.compile(r"op-[0-9a-z]{8,}")
CHANGES = [  # what differs from run to run, and what stands there instead
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"), "<time>"),
    (re.compile(r"ENROL-[\w-]+"), "ENROL-<nonce>"),
    (re.compile(r"\btok-[0-9a-z]+"), "<token>"),
    (re.compile(r"\breq-[0-9a-f]+"), "<request>"),
    (re.compile(r"\be-[0-9a-f]{16}\b"), "<replica>"),
    (re.compile(r"\brep-[0-9a-z]{10}\b"), "<replica id>"),
    (re.compile(r'("host": )"[^"]*"'), r"\1<…>"),
    (
        re.compile(r'("(?:\w+_ms|\w+_us|version_hash|prev_hash|hash|pid|size_bytes|wal_bytes|uptime_ms|ms)": )[^,\n]+'),
        r"\1<…>",
    ),
    (re.compile(r'(?<=": )\d+\.\d+(?=,?$)', re.MULTILINE), "<…>"),  # milliseconds by state
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"@[0-9a-f]{12}\b"), "@<hash>"),
    (re.compile(r"\+\d+\.\d{3}\b"), "+<offset>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"\bpid \d+"), "pid <pid>"),
    (re.compile(r"(?<!--ttl )\b\d+(\.\d+)?(ms|s|m|h|d|m\d+s|h\d+m)( ago)?\b"), "<while>"),
    (re.compile(r"(?<=  )now\b|(?<=seen )now\b|(?<=newest )now\b|(?<=oldest )now\b"), "<while>"),
    (re.compile(r"\d+(\.\d+)? [KMG]iB( \(.* of it -wal\))?(?= *$)", re.MULTILINE), "<size>"),
    (re.compile(r"(?<![\w-])[0-9a-f]{12}(?![\w-])"), "<hash>"),
    (re.compile(r'python \d+\.\d+\.\d+|(?<="python": ")[\d.]+'), "<python>"),
]


def plain(text: str, home: Path) -> str:
    """*text* as it is in every run. Ids are numbered in the order in which they first appear."""
    text = text.replace(str(home), "~")
    for pattern, name in ((UUID, "uuid"), (OPERATION, "op")):
        seen: dict[str, str] = {}
        text = pattern.sub(lambda m, s=seen, n=name: s.setdefault(m[0], f"<{n} {len(s) + 1}>"), text)  # type: ignore[misc]
    for pattern, instead in CHANGES:
        text = pattern.sub(instead, text)
    return "\n".join(re.sub(r"(?<=\S) {2,}(?=\S)", "  ", line).rstrip() for line in text.splitlines())
