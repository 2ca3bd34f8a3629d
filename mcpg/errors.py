"""
Every error this project raises on purpose.

    McpgError
        Usage
            BadSlug
            BadSpec
            BadConfig
        NotFound
        Denied
            NotSignedIn
            Forbidden
        Refused
            NoSuchMove
            GuardRefused
            Conflict
            NameTaken
            Busy
            KeyReused
            ClusterInUse
        NoCapacity
        Unavailable
            NoProvisioner
            Unreachable
        Failed
            TemporaryError
            PermanentError
                GatewayExited
            ConfigRejected
            DeadlinePassed
            Cancelled
        StateDir
            StateDirBusy
            StateDirUnusable
            DatabaseUnusable
            NewerSchema
        Damaged
        TimedOut
        Pending
        Detached

Each has a stable `code`, which is what the wire and the CLI show, and a place in `MAPPING`, the one table from a code to
an HTTP status, a gRPC status name and an exit code (contract: exit codes of the command line, README).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class McpgError(Exception):
    """
    Base of every error raised on purpose: *what* happened, *cause* why, *hint* the next command.

    `details` is JSON and goes to the wire unchanged; it never holds a secret.
    """

    code = "error"

    def __init__(self, what: str, *, cause: str = "", hint: str = "", **details: Any) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.hint = hint
        self.details = details


class Usage(McpgError):
    """The request itself is wrong; sending it again will not help."""

    code = "invalid_argument"


class BadSlug(Usage):
    """A name that cannot be a DNS label here, or is reserved."""

    code = "bad_slug"


class BadSpec(Usage):
    """A field of a gateway's spec is out of range or of the wrong type."""

    code = "bad_spec"


class BadConfig(Usage):
    """A gateway config that cannot be delivered: it does not parse, or it sets what the provisioner decides."""

    code = "unparseable_config"


class NotFound(McpgError):
    """No such org, workspace, environment, instance, operation or route."""

    code = "not_found"


class Denied(McpgError):
    """Who asks may not have it."""

    code = "denied"


class NotSignedIn(Denied):
    """No credential, or one that is not accepted."""

    code = "unauthenticated"


class Forbidden(Denied):
    """A known caller without the right."""

    code = "forbidden"


class Refused(McpgError):
    """The request is understood and cannot be done as things are."""

    code = "refused"


class NoSuchMove(Refused):
    """The machine has no move for this event in this state."""

    code = "no_such_move"


class GuardRefused(Refused):
    """The machine has the move, and its guard said no."""

    code = "guard_refused"


class Conflict(Refused):
    """Somebody else moved first: read again, then decide again."""

    code = "conflict"


class NameTaken(Refused):
    """A gateway's name is one DNS label for the whole control plane, and another one has it."""

    code = "name_taken"


class Busy(Refused):
    """Another operation is running on this gateway."""

    code = "busy"


class KeyReused(Refused):
    """One Idempotency-Key, two different requests."""

    code = "idempotency_key_reused"


class ClusterInUse(Refused):
    """Gateways run in the cluster; `details` names them and the moves there are."""

    code = "cluster_in_use"


class NoCapacity(McpgError):
    """No cluster can take it; `cause` names each with its reason."""

    code = "no_capacity"


class Unavailable(McpgError):
    """Something this needs is not there now."""

    code = "unavailable"


class NoProvisioner(Unavailable):
    """This control plane runs without a provisioner, so it cannot create gateways."""

    code = "no_provisioner"


class Unreachable(Unavailable):
    """No control plane answers at the URL, or what answers is not one."""

    code = "unreachable"


class Failed(McpgError):
    """It was tried and did not work."""

    code = "failed"


class TemporaryError(Failed):
    """Worth trying again after `delay` seconds; the engine does, inside the state's deadline."""

    code = "temporary"

    def __init__(self, what: str, *, delay: float = 1.0, cause: str = "", hint: str = "", **details: Any) -> None:
        super().__init__(what, cause=cause, hint=hint, **details)
        self.delay = delay


class PermanentError(Failed):
    """Trying again cannot help; the operation fails with these words."""

    code = "permanent"


class ConfigRejected(Failed):
    """A gateway refused its config, in its own words."""

    code = "config_rejected"


class GatewayExited(PermanentError):
    """A gateway's process ended when it should run."""

    code = "gateway_exited"


class DeadlinePassed(Failed):
    """It did not happen in its time."""

    code = "deadline"


class Cancelled(Failed):
    """Somebody asked to stop it, and it was taken back."""

    code = "cancelled"


class StateDir(McpgError):
    """The state directory cannot be used."""

    code = "state_dir"


class StateDirBusy(StateDir):
    """Another control plane holds it."""

    code = "state_dir_busy"


class StateDirUnusable(StateDir):
    """Read-only, not a directory, not ours, or not a database."""

    code = "state_dir_unusable"


class DatabaseUnusable(StateDir):
    """The database server does not answer, refuses us, or has no such database."""

    code = "database_unusable"


class NewerSchema(StateDir):
    """Written by a newer version than this one."""

    code = "newer_schema"


class Damaged(McpgError):
    """Something in the database is not what we write: somebody edited it."""

    code = "damaged"


class TimedOut(McpgError):
    """The viewer stopped waiting; the operation goes on."""

    code = "timeout"


class Pending(McpgError):
    """Not finished yet."""

    code = "pending"


class Detached(McpgError):
    """Ctrl-C: the viewer left; the operation goes on."""

    code = "detached"


class Mapped(NamedTuple):
    """What one code is called elsewhere."""

    http: int
    grpc: str
    exit: int


MAPPING: Final[dict[str, Mapped]] = {
    "error": Mapped(500, "INTERNAL", 1),
    "invalid_argument": Mapped(400, "INVALID_ARGUMENT", 2),
    "bad_slug": Mapped(400, "INVALID_ARGUMENT", 2),
    "bad_spec": Mapped(400, "INVALID_ARGUMENT", 2),
    "unparseable_config": Mapped(422, "INVALID_ARGUMENT", 2),
    "not_found": Mapped(404, "NOT_FOUND", 3),
    "denied": Mapped(403, "PERMISSION_DENIED", 4),
    "unauthenticated": Mapped(401, "UNAUTHENTICATED", 4),
    "forbidden": Mapped(403, "PERMISSION_DENIED", 4),
    "refused": Mapped(409, "FAILED_PRECONDITION", 5),
    "no_such_move": Mapped(409, "FAILED_PRECONDITION", 5),
    "guard_refused": Mapped(409, "FAILED_PRECONDITION", 5),
    "conflict": Mapped(409, "ABORTED", 5),
    "name_taken": Mapped(409, "ALREADY_EXISTS", 5),
    "busy": Mapped(409, "ABORTED", 5),
    "idempotency_key_reused": Mapped(422, "INVALID_ARGUMENT", 5),
    "cluster_in_use": Mapped(409, "FAILED_PRECONDITION", 5),
    "no_capacity": Mapped(503, "RESOURCE_EXHAUSTED", 7),
    "unavailable": Mapped(503, "UNAVAILABLE", 6),
    "no_provisioner": Mapped(503, "UNAVAILABLE", 1),
    "unreachable": Mapped(503, "UNAVAILABLE", 6),
    "failed": Mapped(500, "INTERNAL", 1),
    "temporary": Mapped(503, "UNAVAILABLE", 1),
    "permanent": Mapped(500, "INTERNAL", 1),
    "config_rejected": Mapped(422, "FAILED_PRECONDITION", 1),
    "gateway_exited": Mapped(500, "INTERNAL", 1),
    "deadline": Mapped(504, "DEADLINE_EXCEEDED", 1),
    "cancelled": Mapped(409, "CANCELLED", 1),
    "state_dir": Mapped(500, "INTERNAL", 1),
    "state_dir_busy": Mapped(500, "INTERNAL", 5),
    "state_dir_unusable": Mapped(500, "INTERNAL", 1),
    "database_unusable": Mapped(500, "INTERNAL", 1),
    "newer_schema": Mapped(500, "INTERNAL", 1),
    "damaged": Mapped(500, "DATA_LOSS", 1),
    "timeout": Mapped(504, "DEADLINE_EXCEEDED", 124),
    "pending": Mapped(202, "UNAVAILABLE", 8),
    "detached": Mapped(499, "CANCELLED", 130),
}


def exit_code(code: str) -> int:
    """The process exit code for an error *code*; a code this version does not know is a plain failure, 1."""
    return MAPPING[code].exit if code in MAPPING else 1
