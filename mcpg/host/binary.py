"""
Which program a gateway is: the setting, `mcpg` on PATH, the project's own download, or our own agent.

Called by mcpg/provisioners/program.py, which chooses once and then looks again before each start, and by `gateway --exec`.
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
from mcpg.errors import PermanentError, Usage

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


def find_gateway(setting: str, cache_dirs: tuple[Path, ...] = (), *, answer_s: float = VERSION_TIMEOUT_S) -> Gateway:
    """
    The gateway to start: *setting* (a path), else `mcpg` on PATH, else in *cache_dirs*, else our agent.

    Blocks while the program says its version, the first time, for *answer_s* at most. Raises PermanentError when the
    setting names something that cannot be run: falling back in silence would run another gateway than was asked for.
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
        return _program(path, answer_s)
    if found := _installed("mcpg", cache_dirs):
        return _program(found, answer_s)
    return Gateway("own", (sys.executable, "-m", "mcpg.cli.main", "gateway"), OWN_VERSION)


def found_again(gateway: Gateway) -> Gateway:
    """
    *gateway*, which was found once, as it is now. Blocks and raises as `find_gateway` does: what has gone since is not
    replaced by something else.
    """
    path = Path(gateway.path)
    if gateway.kind == "own":
        return gateway
    if not path.is_file() or not os.access(path, os.X_OK):
        reason = "it is not executable any more" if path.is_file() else "it is not there any more"
        raise PermanentError(
            f"the gateway binary {path} cannot be run",
            cause=f"{reason}; the control plane chose it when it started, and starts nothing else in its place",
            hint="put it back; or restart the control plane, which chooses anew",
        )
    return _program(path)


def find_program(command: str, cache_dirs: tuple[Path, ...] = ()) -> Gateway:
    """
    The gateway that `--exec` names: a path where it has a `/`, else a name on PATH; `mcpg` also in *cache_dirs*.

    Blocks as `find_gateway` does. Raises Usage when it cannot be run, or is our own agent once more.
    """
    path = Path(command).expanduser().absolute() if "/" in command else _installed(command, cache_dirs)
    hint = "--exec /path/to/mcpg; npm install @mcpg-dev/cli-linux-x64 has it"
    if path is None or not path.is_file() or not os.access(path, os.X_OK):
        where = "it is not on PATH" if path is None else "there is no such file, or it is not executable"
        raise Usage(f"the gateway program {command} cannot be run", cause=where, hint=hint)
    gateway = _program(path)
    if gateway.kind == "own":
        cause = "mcpg-ctl is the agent; --exec names the data plane it is to supervise"
        raise Usage(f"--exec {command} would start this agent again", cause=cause, hint=hint)
    return gateway


def _installed(name: str, cache_dirs: tuple[Path, ...]) -> Path | None:
    """*name* on PATH, or `mcpg` in a project's cache."""
    if found := shutil.which(name):
        return Path(found).absolute()
    cached = (directory / _IN_CACHE for directory in cache_dirs if name == "mcpg")
    return next((path for path in cached if path.is_file() and os.access(path, os.X_OK)), None)


def _program(path: Path, answer_s: float = VERSION_TIMEOUT_S) -> Gateway:
    if path.name == "mcpg-ctl":  # our agent, asked for by name
        return Gateway("own", (str(path), "gateway"), OWN_VERSION)
    return Gateway("mcpg", (str(path),), _version(str(path), path.stat().st_mtime_ns, answer_s))


@functools.lru_cache(maxsize=16)
def _version(path: str, mtime_ns: int, answer_s: float) -> str:
    """The first line of `PATH --version`; "" when it fails or takes longer than *answer_s*."""
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
            out, _ = process.communicate(timeout=answer_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return ""
    lines = out.decode(errors="replace").strip().splitlines()
    return lines[0][:100] if lines and process.returncode == 0 else ""
