"""
Which program a gateway is: the setting, `mcpg` on PATH, the project's own download, or our own agent.

Called by local.py before each start, so that a binary which appears or goes while the control plane runs is noticed.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mcpg import __version__
from mcpg.errors import PermanentError

VERSION_TIMEOUT_S: Final = 5.0  # `mcpg --version` takes 0.03 s
OWN_VERSION: Final = f"mcpg-ctl {__version__}"
_IN_CACHE: Final = Path("node_modules/@mcpg-dev/cli-linux-x64/bin/mcpg")


@dataclass(frozen=True, slots=True)
class Gateway:
    """`kind` decides how it is told where to attach; `argv` starts it; `version` is for people, or ""."""

    kind: Literal["mcpg", "own"]
    argv: tuple[str, ...]
    version: str

    @property
    def path(self) -> str:
        return self.argv[0]


def project_caches() -> tuple[Path, ...]:
    """`.cache/gateway` of the checkout this package runs from; none where it is installed elsewhere."""
    cache = Path(__file__).resolve().parents[2] / ".cache" / "gateway"
    return (cache,) if cache.is_dir() else ()


def find_gateway(setting: str, cache_dirs: tuple[Path, ...] = ()) -> Gateway:
    """
    The gateway to start: *setting* (a path), else `mcpg` on PATH, else in *cache_dirs*, else our agent.

    Blocks while the program says its version, the first time, at most 5 s. Raises PermanentError when the setting names
    something that cannot be run: falling back in silence would run another gateway than was asked for.
    """
    if setting:
        path = Path(setting).expanduser().absolute()
        if not path.is_file() or not os.access(path, os.X_OK):
            reason = "it is not executable" if path.is_file() else "there is no such file"
            raise PermanentError(
                f"the gateway binary {path} cannot be run",
                cause=f"{reason}; the setting MCPG_CP_GATEWAY_BIN names it",
                hint="correct MCPG_CP_GATEWAY_BIN, or leave it empty to find a gateway",
            )
        return _program(path)
    if found := shutil.which("mcpg"):
        return _program(Path(found).absolute())
    for directory in cache_dirs:
        path = directory / _IN_CACHE
        if path.is_file() and os.access(path, os.X_OK):
            return _program(path)
    return Gateway("own", (sys.executable, "-m", "mcpg.cli.main", "gateway"), OWN_VERSION)


def _program(path: Path) -> Gateway:
    if path.name == "mcpg-ctl":  # our agent, asked for by name
        return Gateway("own", (str(path), "gateway"), OWN_VERSION)
    return Gateway("mcpg", (str(path),), _version(str(path), path.stat().st_mtime_ns))


@functools.lru_cache(maxsize=16)
def _version(path: str, mtime_ns: int) -> str:
    """The first line of `PATH --version`; "" when it fails or takes longer than 5 s."""
    try:
        # Its own session: what a script has started is ended with it, and cannot hold the pipe open.
        process = subprocess.Popen(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return ""
    with process:
        try:
            out, _ = process.communicate(timeout=VERSION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return ""
    lines = out.decode(errors="replace").strip().splitlines()
    return lines[0][:100] if lines and process.returncode == 0 else ""
