"""
From the YAML of a gateway config to what our data plane serves, or to one clear sentence why it cannot.

The rule is honesty: what this data plane does not do (other backends, authentication, an audit log, TLS, secrets in
values) makes the whole config fail, so that a control plane sees `error` and not a tool that answers wrongly. Key names
and defaults are the real gateway's (`mcpg-config schema`, 0.1.0-beta.48). Called by mcpg/agent/plane.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from mcpg import errors
from mcpg.agent.expression import Expression, Unsupported, compile_expression

DEFAULT_BIND: Final = "127.0.0.1:8787"
MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000
# The real gateway replaces these in any value; here they would be served as they stand.
_INTERPOLATION: Final = re.compile(r"\$\{(?:env|secret|cred)[.:]")


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the gateway listens and on which paths. Only a local config decides it; a push never moves it."""

    host: str
    port: int
    mcp_path: str = "/mcp"
    health_path: str = "/health"


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    input_schema: dict[str, Any]
    evaluate: Expression
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A compiled config. `has_tools_section` is false for one that only says where to listen."""

    listener: Listener
    tools: Mapping[str, Tool] = field(default_factory=dict)
    has_tools_section: bool = False
    sets_listener: bool = False
    warnings: tuple[str, ...] = ()


def compile_config(raw: bytes) -> Config:
    """The config in *raw* (UTF-8 YAML or JSON). Raises errors.BadConfig, whose `what` is the sentence for the ack."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.BadConfig(f"not utf8: {error.reason} at byte {error.start}") from None
    top = _Node("", _load(text)).mapping("gateway", "governance", "mcp")
    listener, sets_listener = _listener(top.get("gateway"))
    mcp = top.get("mcp")
    tools = _tools(mcp) if mcp else {}
    audit_is_off = _audit_is_off(top.get("governance"))
    unaudited = "governance.audit is not set: the real gateway would keep an audit log, this one keeps none"
    return Config(
        listener=listener,
        tools=tools,
        has_tools_section=mcp is not None,
        sets_listener=sets_listener,
        warnings=(unaudited,) if tools and not audit_is_off else (),
    )


def read_local_config(path: str) -> Config:
    """The config in the file *path*; an empty one for an empty path. Raises errors.Usage and errors.BadConfig."""
    if not path:
        return compile_config(b"{}")
    try:
        return compile_config(Path(path).read_bytes())
    except OSError as error:
        cause = error.strerror or str(error)
        raise errors.Usage(f"cannot read the local config {path}", cause=cause, hint="see MCPG_CONFIG") from None
    except errors.BadConfig as error:
        raise errors.BadConfig(f"the local config {path} cannot be served", cause=error.what) from None


def _load(text: str) -> Any:
    try:
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # The position and not the snippet: a config may hold what must not be in a log.
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise errors.BadConfig(f"failed to parse YAML config{where}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise errors.BadConfig("failed to parse YAML config: not YAML, or nested too deeply") from None
    return _plain("", document, 0, [MAX_NODES])


def _plain(path: str, value: Any, depth: int, budget: list[int]) -> Any:
    """A copy that JSON can say; bounded, because a few YAML aliases can stand for billions of nodes or for a cycle."""
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise errors.BadConfig("the config is nested too deeply or too large")
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise errors.BadConfig(f"{path or 'the config'}: every key must be text")
        return {key: _plain(f"{path}.{key}".lstrip("."), item, depth + 1, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(f"{path}[{index}]", item, depth + 1, budget) for index, item in enumerate(value)]
    if isinstance(value, str):
        if _INTERPOLATION.search(value):
            raise errors.BadConfig(f"{path}: ${{env…}}, ${{secret…}} and ${{cred…}} are not supported by this gateway")
        return value
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise errors.BadConfig(f"{path}: a {type(value).__name__} like this has no exact form in JSON; put it in quotes")


@dataclass(frozen=True, slots=True)
class _Node:
    """A value and where it stands, so that every sentence can begin with the place."""

    path: str
    value: Any

    def bad(self, why: str) -> errors.BadConfig:
        return errors.BadConfig(f"{self.path or 'the config'}: {why}")

    def mapping(self, *known: str) -> dict[str, _Node]:
        """Its members, of which only *known* may exist; null is as good as absent."""
        if not isinstance(self.value, dict):
            raise self.bad("must be a mapping")
        for key in self.value:
            if key not in known:
                raise self.bad(f"the key `{key}` is not supported by this gateway (supported: {', '.join(known)})")
        return {
            key: _Node(f"{self.path}.{key}".lstrip("."), item) for key, item in self.value.items() if item is not None
        }

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.bad("must be text and not empty")
        return self.value

    def items(self) -> list[_Node]:
        if not isinstance(self.value, list):
            raise self.bad("must be a list")
        return [_Node(f"{self.path}[{index}]", item) for index, item in enumerate(self.value)]


def _listener(gateway: _Node | None) -> tuple[Listener, bool]:
    # control_plane is how the real gateway is attached; ours is told by flags, so it says nothing here.
    server = gateway.mapping("server", "control_plane").get("server") if gateway else None
    keys = server.mapping("bind_address", "mcp_path", "health_path") if server else {}
    host, port = _bind(keys.get("bind_address", _Node("gateway.server.bind_address", DEFAULT_BIND)))
    paths = {name: _path(keys[name]) for name in ("mcp_path", "health_path") if name in keys}
    listener = Listener(host, port, **paths)
    if listener.mcp_path == listener.health_path:
        raise errors.BadConfig("gateway.server: mcp_path and health_path are the same")
    return listener, bool(keys)


def _bind(node: _Node) -> tuple[str, int]:
    host, colon, port = node.text().rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise node.bad("must be HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _path(node: _Node) -> str:
    path = node.text()
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or set(path) & set(" ?#"):
        raise node.bad("must be a path that starts with /")
    return path


def _audit_is_off(governance: _Node | None) -> bool:
    audit = governance.mapping("audit").get("audit") if governance else None
    enabled = audit.mapping("enabled").get("enabled") if audit else None
    if enabled and enabled.value is not False:
        raise enabled.bad("this gateway keeps no audit log; only `false` is supported")
    return enabled is not None


def _tools(mcp: _Node) -> dict[str, Tool]:
    capabilities = mcp.mapping("capabilities").get("capabilities")
    listed = capabilities.mapping("tools").get("tools") if capabilities else None
    tools: dict[str, Tool] = {}
    for node in listed.items() if listed else []:
        tool = _tool(node)
        if tool.name in tools:
            raise node.bad(f"a second tool named {tool.name}")
        tools[tool.name] = tool
    return tools


def _tool(node: _Node) -> Tool:
    keys = node.mapping("name", "title", "description", "input_schema", "governance", "backend")
    for required in ("name", "description", "backend"):
        if required not in keys:
            raise node.bad(f"`{required}` is missing")
    _trust(node, keys.get("governance"))
    schema = keys["input_schema"].value if "input_schema" in keys else {"type": "object"}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise keys["input_schema"].bad("must be a JSON schema of type object")
    return Tool(
        name=keys["name"].text(),
        title=keys["title"].text() if "title" in keys else None,
        description=keys["description"].text(),
        input_schema={"type": "object", **schema},
        evaluate=_backend(keys["backend"]),
    )


def _trust(tool: _Node, governance: _Node | None) -> None:
    given = governance.mapping("minimum_trust").get("minimum_trust") if governance else None
    # Absent means header_asserted in the real gateway. Serving such a tool to anyone would open what its author closed.
    trust = given.text() if given else "header_asserted"
    if trust != "unauthenticated":
        raise tool.bad(
            f"needs trust {trust}{'' if given else ' (the default)'}, and this gateway authenticates nobody; "
            "only `governance: {minimum_trust: unauthenticated}` is supported"
        )


def _backend(node: _Node) -> Expression:
    kind = node.value.get("kind") if isinstance(node.value, dict) else None
    if kind != "pipeline":
        raise node.bad(f"kind {kind!r} is not supported by this gateway, only `pipeline` with one `transform` step")
    steps = node.mapping("kind", "steps").get("steps")
    listed = steps.items() if steps else []
    if len(listed) != 1:
        raise node.bad(f"a pipeline of {len(listed)} steps is not supported by this gateway, only one `transform` step")
    step = listed[0]
    kind = step.value.get("kind") if isinstance(step.value, dict) else None
    if kind != "transform":
        raise step.bad(f"kind {kind!r} is not supported by this gateway, only `transform`")
    keys = step.mapping("id", "kind", "expression")
    if "expression" not in keys:
        raise step.bad("`expression` is missing")
    try:
        return compile_expression(keys["expression"].text())
    except Unsupported as error:
        raise keys["expression"].bad(f"unsupported expression {error}") from None
