"""What docs/crash.md says to type, and what README.md says to type one after the other, does what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.bounds import BOUND_S
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def typed(page: str, title: str) -> list[str]:
    """The lines after `$ ` under a title."""
    text = (ROOT / page).read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^ *\$ (.*)$", text, re.MULTILINE)


def test_the_crash_by_hand_goes_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mcpg-ctl").symlink_to(Path(sys.executable).with_name("mcpg-ctl"))
    http, grpc = free_port(), free_port()
    lines = [*typed("docs/crash.md", "One by hand")]
    script = "\n".join(["set -m", *lines]).replace("/tmp/try", str(tmp_path / "try"))
    script = script.replace("127.0.0.1:7943", f"127.0.0.1:{http}").replace("127.0.0.1:7944", f"127.0.0.1:{grpc}")
    script = script.replace(
        "mcpg-ctl operation list", "mcpg-ctl operation wait $(mcpg-ctl operation list -o name); mcpg-ctl operation list"
    )
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=BOUND_S, env=environ, cwd=tmp_path
    )
    [listed] = [line for line in done.stdout.splitlines() if "  create  " in line]
    assert ("  ready  " in listed, "Killed" in done.stderr) == (True, True), done.stderr
    history = [line for line in done.stdout.splitlines() if "deleted" in line]
    assert history, done.stdout


def test_the_two_gateways_of_the_readme_have_a_state_directory_each() -> None:
    first, second = (line for line in typed("README.md", "With the real peers") if "token create" in line)
    assert ("--state-dir" in first, "--state-dir" in second) == (False, True)
