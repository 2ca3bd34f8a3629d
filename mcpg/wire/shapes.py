"""
The names that `Command.shape` uses for what `-o json` prints, and their JSON Schema. Read by tools/cli_docs.py and tests.

`Cluster` is one object, `Cluster[]` an array of them, `Result | Accepted` one of two.
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mcpg.wire import audit, clusters, events, explain, fleet, gateways, local, machines, operations

_TYPES: Final[tuple[type[BaseModel], ...]] = (
    audit.Audit,
    audit.Replay,
    clusters.Cluster,
    clusters.ClusterHealth,
    events.FleetEvent,
    events.LadderEvent,
    explain.Explanation,
    fleet.Instance,
    fleet.Token,
    fleet.TokenStatus,
    gateways.DryRun,
    machines.Machine,
    machines.MachineDiff,
    machines.MachineSummary,
    machines.UpgradeReport,
    operations.CancelPlan,
    operations.Export,
    operations.Operation,
    local.Accepted,
    local.Context,
    local.DoctorReport,
    local.ErrorReport,
    local.GatewayStatus,
    local.Login,
    local.MachineCheck,
    local.NotThere,
    local.Removed,
    local.Result,
    local.Setting,
    local.SignedOut,
    local.Started,
    local.Status,
    local.VersionInfo,
)
SHAPES: Final = {each.__name__: each for each in _TYPES}


def types_of(shape: str) -> list[str]:
    """The type names in a shape. Raises KeyError for one that is no shape."""
    names = [part.strip().removesuffix("[]") for part in shape.split("|")] if shape else []
    return [SHAPES[name].__name__ for name in names]


def schema_of(shape: str) -> dict[str, Any]:
    """The schema of one shape; its `$ref` point into `definitions()`."""
    parts: list[dict[str, Any]] = []
    for text in shape.split("|"):
        name = text.strip()
        item = {"$ref": f"#/$defs/{SHAPES[name.removesuffix('[]')].__name__}"}
        parts.append({"type": "array", "items": item} if name.endswith("[]") else item)
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


def definitions() -> dict[str, Any]:
    """Every type as JSON Schema 2020-12, by name, as it is written."""
    _, schema = models_json_schema([(each, "serialization") for each in _TYPES], ref_template="#/$defs/{model}")
    found: dict[str, Any] = schema["$defs"]
    return dict(sorted(found.items()))
