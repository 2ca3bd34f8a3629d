"""
A kubeconfig, read for `cluster register`: which API server a context means. Credentials in it are never kept or sent.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from mcpg.cli import files
from mcpg.cli.parse import close
from mcpg.cli.render import without_login
from mcpg.errors import BadConfig

_MAX = 1024 * 1024
_DEEPEST = 64  # brackets in brackets: a kubeconfig has two or three, and the scanner's time grows with their square


def read(where: str, context: str) -> dict[str, str]:
    """
    The metadata of *context* ("": the file's current one): `kubeconfig` (absolute), `kube_context` and `kube_server`.

    Raises BadConfig for a file that cannot be read or is no kubeconfig, and for a context it does not have.
    """
    import yaml

    try:
        path = Path(os.path.abspath(Path(where).expanduser()))
        raw, _ = files.read(path, _MAX, pipes=True)
    except (OSError, RuntimeError) as exc:  # RuntimeError: ~nobody has no home
        raise _bad(where, getattr(exc, "strerror", None) or str(exc)) from None
    try:
        _harmless(raw)
        found = yaml.safe_load(raw)
    except Exception:  # noqa: BLE001  whatever it is, its words may quote a credential
        raise _bad(where, "it is not YAML") from None
    if not isinstance(found, dict) or not isinstance(found.get("contexts"), list):
        raise _bad(where, "it has no contexts: it is not a kubeconfig")
    contexts = _named(found.get("contexts"), "context")
    context = context or _text(found.get("current-context"))
    if not context:
        raise _bad(where, "it has no current-context", f"--kube-context one of: {', '.join(sorted(contexts))}")
    if context not in contexts:
        meant = close(context, sorted(contexts))
        known = ", ".join(sorted(contexts)) or "none"
        raise BadConfig(
            f'{where} has no context "{context}"',
            cause=f"it has: {known}",
            hint=f"did you mean: --kube-context {shlex.quote(meant)}" if meant else "--kube-context NAME",
        )
    cluster = _text(contexts[context].get("cluster"))
    server = _named(found.get("clusters"), "cluster").get(cluster, {}).get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise _bad(where, f'context "{context}" names cluster "{cluster}", which has no server URL')
    return {"kubeconfig": str(path), "kube_context": context, "kube_server": without_login(server)}


def _harmless(raw: bytes) -> None:
    """Raises ValueError for what is quick to write and takes long to read: aliases, and brackets in brackets without end."""
    import yaml

    depth = 0
    for token in yaml.scan(raw, yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("an alias")  # noqa: TRY004  a few of them, merged, unfold to gigabytes
        if isinstance(token, (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)):
            depth += 1
        elif isinstance(token, (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)):
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError("too deep")


def _named(items: object, key: str) -> dict[str, dict[str, Any]]:
    """The entries of one of the file's lists, by name."""
    found = [item for item in (items if isinstance(items, list) else []) if isinstance(item, dict)]
    return {_text(item.get("name")): item[key] for item in found if isinstance(item.get(key), dict)}


def _text(value: object) -> str:
    """A name of the file; "" for what is none, which may be a structure of any size."""
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def _bad(where: str, cause: str, hint: str = "--kubeconfig FILE") -> BadConfig:
    return BadConfig(f"--kubeconfig {where} cannot be used", cause=cause, hint=hint)
