"""
The tables. Times are integers, microseconds since the epoch, UTC; JSON is text, written canonically by the store.

`version` of a machine row (operation, agent, cluster) is the number of its journal lines: fence, SSE id and idempotency
key in one. Only mcpg/store/journal.py writes `state` and `version`. A name that must be unique while it lives is a
nullable unique column: NULL once its holder is gone.
"""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model


class MachineRow(Model):
    """What every row that a machine moves has. `head_hash` is the newest line's hash: appending needs no second read."""

    id = fields.CharField(primary_key=True, max_length=64)
    state = fields.CharField(max_length=24)
    version = fields.IntField()
    head_hash = fields.CharField(max_length=64)
    deadline_at = fields.BigIntField(null=True)
    lease_owner = fields.CharField(max_length=64, null=True)
    lease_until = fields.BigIntField(null=True)
    attempt = fields.IntField(db_default=0)
    next_attempt_at = fields.BigIntField(null=True)
    created_at = fields.BigIntField()
    updated_at = fields.BigIntField()

    class Meta:
        abstract = True


class Org(Model):
    id = fields.CharField(primary_key=True, max_length=36)
    slug = fields.CharField(max_length=40, unique=True)
    name = fields.CharField(max_length=120)
    plan_tier = fields.CharField(max_length=24, db_default="community")
    status = fields.CharField(max_length=24, db_default="active")
    created_at = fields.BigIntField()

    class Meta:
        table = "org"


class Workspace(Model):
    id = fields.CharField(primary_key=True, max_length=36)
    org_id = fields.CharField(max_length=36)
    slug = fields.CharField(max_length=40)
    name = fields.CharField(max_length=120)
    created_at = fields.BigIntField()

    class Meta:
        table = "workspace"
        unique_together = (("org_id", "slug"),)


class Environment(Model):
    id = fields.CharField(primary_key=True, max_length=36)
    workspace_id = fields.CharField(max_length=36)
    slug = fields.CharField(max_length=40)
    name = fields.CharField(max_length=120)
    created_at = fields.BigIntField()

    class Meta:
        table = "environment"
        unique_together = (("workspace_id", "slug"),)


class Operation(MachineRow):
    """
    One provision, teardown or recovery. `spec` is what was asked, `previous` what an update goes back to when it fails.

    `step` counts the `next` moves of a rolling update. `paused_in` is the state it was last paused in. `retry_of` is the
    ended operation that somebody had made anew.
    """

    machine = fields.CharField(max_length=24)
    kind = fields.CharField(max_length=12)
    org = fields.CharField(max_length=40)
    workspace = fields.CharField(max_length=40)
    environment = fields.CharField(max_length=40)
    name = fields.CharField(max_length=40)
    instance_id = fields.CharField(max_length=64)
    spec = fields.TextField()
    previous = fields.TextField(null=True)
    actor = fields.CharField(max_length=200)
    idempotency_key = fields.CharField(max_length=200, null=True)
    body_hash = fields.CharField(max_length=64)
    cluster_id = fields.CharField(max_length=64, null=True)
    cancelled = fields.IntField(db_default=0)
    step = fields.IntField(db_default=0)
    paused_in = fields.CharField(max_length=24, db_default="")
    retry_of = fields.CharField(max_length=64, null=True)
    error = fields.TextField(db_default="")
    code = fields.CharField(max_length=40, db_default="")
    finished_at = fields.BigIntField(null=True)

    class Meta:
        table = "operation"
        unique_together = (("org", "idempotency_key"),)
        indexes = (
            ("finished_at",), ("created_at",), ("org", "created_at"), ("instance_id", "created_at"), ("lease_until",),
        )  # fmt: skip


class JoinedKey(Model):
    """The Idempotency-Key of a request that found its operation running already: asked again, it finds it for ever."""

    id = fields.CharField(primary_key=True, max_length=64)
    org = fields.CharField(max_length=40)
    idempotency_key = fields.CharField(max_length=200)
    operation_id = fields.CharField(max_length=64)
    created_at = fields.BigIntField()

    class Meta:
        table = "joined_key"
        unique_together = (("org", "idempotency_key"),)


class Instance(Model):
    """
    One gateway. `operation_id` is the operation that runs on it now: at most one, by compare-and-set.

    `endpoints` are where it listens, and are shown while `ready_at` is set. `orphaned_at`: its cluster was taken out of
    the pool under it, so it holds no room anywhere, and `cluster_id` is where it was. While an update rolls,
    `rolling_from` is the config version that replicas above `rolled` still have; NULL when all have `config_version`.
    """

    id = fields.CharField(primary_key=True, max_length=64)
    instance_uid = fields.CharField(max_length=200, unique=True)
    org = fields.CharField(max_length=40)
    workspace = fields.CharField(max_length=40)
    environment = fields.CharField(max_length=40)
    name = fields.CharField(max_length=40, db_default="")
    live_name = fields.CharField(max_length=40, null=True, unique=True)
    managed = fields.IntField(db_default=0)
    discovered_via = fields.CharField(max_length=24)
    spec = fields.TextField()
    cluster_id = fields.CharField(max_length=64, null=True)
    config_version = fields.IntField(null=True)
    assigned_hash = fields.CharField(max_length=64, db_default="")
    rolling_from = fields.IntField(null=True)
    rolled = fields.IntField(db_default=0)
    endpoints = fields.TextField(db_default="[]")
    operation_id = fields.CharField(max_length=64, null=True)
    ready_at = fields.BigIntField(null=True)
    created_at = fields.BigIntField()
    orphaned_at = fields.BigIntField(null=True)
    deleted_at = fields.BigIntField(null=True)

    class Meta:
        table = "instance"
        indexes = (("org", "deleted_at"),)


class Agent(MachineRow):
    """
    One enrolled process. Identity is `id` and `generation` (of its credentials), never `instance_uid`, which collides.

    `active_hash`: last acknowledged as active. `received_hash`: what its StatusReport echoes, applied or not.
    `rejected_hash` and `config_error`: the last refusal, in the gateway's own words. `session_epoch`: the start of a control
    plane that holds its channel; NULL when none does.
    """

    instance_id = fields.CharField(max_length=64)
    replica = fields.IntField()
    instance_uid = fields.CharField(max_length=200)
    generation = fields.IntField(db_default=1)
    token_id = fields.CharField(max_length=64)
    software = fields.CharField(max_length=80, db_default="")
    host = fields.TextField(db_default="{}")
    reason = fields.TextField(db_default="")
    pid = fields.IntField(null=True)
    session_epoch = fields.CharField(max_length=64, null=True)
    last_seen_at = fields.BigIntField(null=True)
    active_hash = fields.CharField(max_length=64, db_default="")
    received_hash = fields.CharField(max_length=64, db_default="")
    rejected_hash = fields.CharField(max_length=64, db_default="")
    config_error = fields.TextField(db_default="")

    class Meta:
        table = "agent"
        unique_together = (("instance_id", "replica"),)
        indexes = (("state",),)


class Cluster(MachineRow):
    """
    Where gateways run. The `*_used` counters move in the transaction of the reservation they count.

    A total that is NULL is no limit. `reachable`, `reason` and `last_seen_at` are evidence, not state. Of a kubeconfig only
    the path is kept.
    """

    name = fields.CharField(max_length=60)
    live_name = fields.CharField(max_length=60, null=True, unique=True)
    region = fields.CharField(max_length=60)
    isolation_tier = fields.CharField(max_length=40)
    provisioner = fields.CharField(max_length=24)
    gateways_max = fields.IntField()
    gateways_used = fields.IntField(db_default=0)
    cpu_millicores_total = fields.BigIntField(null=True)
    cpu_millicores_used = fields.BigIntField(db_default=0)
    memory_bytes_total = fields.BigIntField(null=True)
    memory_bytes_used = fields.BigIntField(db_default=0)
    kubeconfig = fields.TextField(db_default="")
    kube_context = fields.TextField(db_default="")
    kube_server = fields.TextField(db_default="")
    reachable = fields.IntField(db_default=1)
    reason = fields.TextField(db_default="")
    last_seen_at = fields.BigIntField(null=True)

    class Meta:
        table = "cluster"


class Reservation(Model):
    """Room taken by one instance, of all its replicas together: one place for each, and what its size class says."""

    instance_id = fields.CharField(primary_key=True, max_length=64)
    cluster_id = fields.CharField(max_length=64)
    places = fields.IntField()
    cpu_millicores = fields.BigIntField(db_default=0)
    memory_bytes = fields.BigIntField(db_default=0)
    operation_id = fields.CharField(max_length=64)

    class Meta:
        table = "reservation"
        indexes = (("cluster_id",),)


class ConfigVersion(Model):
    """One published config of one instance, byte for byte, and what was made of it for the gateway."""

    id = fields.CharField(primary_key=True, max_length=90)
    instance_id = fields.CharField(max_length=64)
    version = fields.IntField()
    raw_text = fields.TextField()
    raw_sha256 = fields.CharField(max_length=64)
    rendered = fields.TextField()
    rendered_sha256 = fields.CharField(max_length=64)
    operation_id = fields.CharField(max_length=64)
    created_at = fields.BigIntField()

    class Meta:
        table = "config_version"
        unique_together = (("instance_id", "version"),)


class BootstrapToken(Model):
    """An enrolment token: only its nonce's hash is kept. `instance_id` and `replica` bind it to a managed gateway."""

    id = fields.CharField(primary_key=True, max_length=64)
    nonce_hash = fields.CharField(max_length=64, unique=True)
    org = fields.CharField(max_length=40)
    workspace = fields.CharField(max_length=40)
    environment = fields.CharField(max_length=40)
    instance_id = fields.CharField(max_length=64, null=True)
    replica = fields.IntField(null=True)
    expected_uid = fields.CharField(max_length=200, null=True)
    one_shot = fields.IntField(db_default=1)
    max_uses = fields.IntField(db_default=1)
    use_count = fields.IntField(db_default=0)
    expires_at = fields.BigIntField()
    revoked_at = fields.BigIntField(null=True)
    issuer = fields.CharField(max_length=200)
    created_at = fields.BigIntField()

    class Meta:
        table = "bootstrap_token"


class Journal(Model):
    """The past: append-only. `at` never goes back within a subject."""

    id = fields.BigIntField(primary_key=True)
    machine = fields.CharField(max_length=24)
    subject = fields.CharField(max_length=64)
    seq = fields.IntField()
    event = fields.CharField(max_length=32)
    source = fields.CharField(max_length=24)
    dest = fields.CharField(max_length=24)
    actor = fields.CharField(max_length=200)
    reason = fields.TextField()
    facts = fields.TextField()
    data = fields.TextField()
    definition = fields.CharField(max_length=64)
    prev_hash = fields.CharField(max_length=64)
    hash = fields.CharField(max_length=64)
    at = fields.BigIntField()

    class Meta:
        table = "journal"
        unique_together = (("subject", "seq"),)


class Definition(Model):
    """Every machine definition that ever wrote a line here, by hash, as canonical JSON."""

    hash = fields.CharField(primary_key=True, max_length=64)
    machine = fields.CharField(max_length=24)
    body = fields.TextField()
    first_seen_at = fields.BigIntField()

    class Meta:
        table = "definition"


class Keyring(Model):
    """Key material shared by replicas of this control plane, e.g. the key that signs instance tokens."""

    name = fields.CharField(primary_key=True, max_length=40)
    value = fields.TextField()
    created_at = fields.BigIntField()

    class Meta:
        table = "keyring"


class Replica(Model):
    """
    One control plane on this database: `id` belongs to its state directory and outlives restarts, `epoch` is this start's.

    `seen_at` is its own heartbeat, by the database's clock; a replica that is silent holds nothing any more. `machine` is where
    it runs, `gateways_dir` where it keeps the files of the gateways it runs there; both are "" where that was not said.
    """

    id = fields.CharField(primary_key=True, max_length=64)
    epoch = fields.CharField(max_length=64)
    host = fields.CharField(max_length=200)
    pid = fields.IntField()
    version = fields.CharField(max_length=40)
    http_url = fields.TextField(db_default="")
    grpc_url = fields.TextField(db_default="")
    provisioner = fields.CharField(max_length=24, db_default="")
    machine = fields.TextField(db_default="")
    gateways_dir = fields.TextField(db_default="")
    started_at = fields.BigIntField()
    seen_at = fields.BigIntField()

    class Meta:
        table = "replica"
