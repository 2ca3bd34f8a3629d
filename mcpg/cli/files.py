"""
Small files that others may have put there: contexts, the login, a session, a kubeconfig, a cache. Read without waiting.

A FIFO is opened as a file is, and would keep a command waiting for whoever writes to it; so every such file is opened
here. Standard library alone, since every client command pays for it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read(path: Path, most: int, *, pipes: bool = False) -> tuple[bytes, int]:
    """
    The content of *path*, at most *most* bytes, and its mode (`st_mode`). With *pipes* also what a pipe holds, as
    `<(command)` makes one; a FIFO that nobody has open for writing holds nothing.

    Raises OSError: it is not there, not to be read, no regular file, or too large.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        os.set_blocking(fd, True)  # a writer may need its time
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // 1024} KiB", str(path))
    return found, mode
