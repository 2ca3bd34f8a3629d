"""`mcpg-config check`, which comes with the real gateway and says where a config is wrong; a nack only says that it is."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Final

from mcpg.host.words import redact

LIMIT_S: Final = 5.0
MAX_CHARACTERS: Final = 400


async def check(gateway: Path, config_text: str) -> str:
    """What the checker beside *gateway* says against *config_text*, on one line; "" without one, or when it is content."""
    checker = gateway.with_name("mcpg-config")
    if not checker.is_file():
        return ""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(config_text)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            checker,
            "check",
            file.name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                said, _ = await process.communicate()
        except TimeoutError:
            return ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if process.returncode == 0:
        return ""
    return cause_of(said.decode("utf-8", "replace"))


def cause_of(said: str) -> str:
    """The innermost `caused by:` of the checker's answer, without its file name."""
    causes = [line.partition("caused by:")[2].strip() for line in said.splitlines() if "caused by:" in line]
    text = causes[-1].removesuffix("in YAML source string").strip() if causes else ""
    return redact("".join(c if c.isprintable() else " " for c in text))[:MAX_CHARACTERS]
