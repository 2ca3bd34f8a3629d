"""Opens a page in the browser of this machine, where there is one: for quickstart and login."""

from __future__ import annotations

import os
import sys


def can_open() -> bool:
    """Whether a window can be shown: otherwise webbrowser would take over the terminal with a text browser."""
    has_display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return sys.platform == "darwin" or has_display


def open_page(url: str) -> None:
    """Returns at once: some browsers come back only when they are closed."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), name="browser", daemon=True).start()
