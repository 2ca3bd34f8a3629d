"""Rows of the store as bodies of the wire: the only place that knows both. Called by the API and by the page."""

from mcpg.present.base import Live, message, transitions, when
from mcpg.present.clusters import capacity, cluster, clusters, health
from mcpg.present.explain import explanation
from mcpg.present.instances import derived_state, instance, instances
from mcpg.present.machines import definition, machine, machines
from mcpg.present.operations import end_event, export, fleet_event, ladder_event, operation, recent_operations
from mcpg.present.replicas import replica, stranded
from mcpg.present.tenancy import environment, org, token, workspace

__all__ = [
    "Live", "capacity", "cluster", "clusters", "definition", "derived_state", "end_event", "environment", "explanation",
    "export", "fleet_event", "health", "instance", "instances", "ladder_event", "machine", "machines", "message",
    "operation", "org", "recent_operations", "replica", "stranded", "token", "transitions", "when", "workspace",
]  # fmt: skip
