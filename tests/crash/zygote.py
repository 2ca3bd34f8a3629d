"""
The parent of the control planes that are killed: it imports the program once and forks it for each start.

Importing takes a second of CPU; the matrix starts a control plane some three hundred times. What a child runs is
`mcpg.cli.main.main()` with argv and environment of its own, in a process of its own, from the first line on: only the
imports are done already. Nothing of a server, a thread or a socket exists before the fork.

One JSON object a line. In: {"argv", "env", "log", "cwd"}. Out: {"pid"} at once for each, in order; {"pid", "status"} when
one has ended (a wait status). Ends when stdin does, killing what still runs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
from typing import Any


def child(order: dict[str, Any]) -> None:
    """Become the program. Never returns."""
    code = 70
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whatever ends the zygote ends what it forked
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        sys.argv = ["mcpg-ctl", *order["argv"]]
        from mcpg.cli.main import main

        code = main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def tell(**words: Any) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def reap(running: set[int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in running:
            running.discard(pid)
            tell(pid=pid, status=status)


def main() -> None:
    import mcpg.cli.local
    import mcpg.cli.main
    import mcpg.server  # noqa: F401 - what a start would import

    gc.collect()
    gc.freeze()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    said = b""
    while True:
        ready, _, _ = select.select([0, read_end], [], [])
        if read_end in ready:
            os.read(read_end, 4096)
            reap(running)
        if 0 not in ready:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *orders, said = (said + chunk).split(b"\n")
        for order in orders:
            pid = os.fork()
            if pid == 0:
                child(json.loads(order))
            running.add(pid)
            tell(pid=pid)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
