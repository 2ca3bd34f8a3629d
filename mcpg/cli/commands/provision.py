"""`provision`: managed gateways."""

from mcpg.cli.options import CLIENT, CONFIRM, ORG, PLACE, WAITING, YES
from mcpg.cli.table import Command, Option

COMMANDS = (
    Command(
        "provision create",
        "mcpg.cli.provision:create",
        "create or update a managed gateway",
        about="Shows its ladder. The operation lives on the server: Ctrl-C leaves it running. Of a name that exists"
        " it is an update: what is left out stays as it is, the config too.",
        examples=(
            "mcpg-ctl provision create --org acme --workspace prod --env us --name edge-1",
            "mcpg-ctl provision create --name edge-1 --config gateway.yaml",
            "mcpg-ctl provision create --name edge-1 --replicas 3",
            "mcpg-ctl provision create --name edge-1 --no-wait -o name",
            "mcpg-ctl provision create --name edge-1 --replicas 3 --dry-run",
        ),
        options=(
            *PLACE,
            Option("--name", "the gateway's name: a-z, 0-9 and -, 2 to 40 characters", metavar="SLUG"),
            Option(
                "--config",
                "gateway config, YAML or TOML, - for stdin; at most 3 MiB",
                kind="path",
                metavar="FILE",
            ),
            Option(
                "--replicas",
                "processes that serve it; default: 1, an update keeps its own",
                kind="int",
                metavar="N",
                low=1,
                high=100,
            ),
            Option(
                "--size",
                "size class to record; default: s; the local provisioner sets no limits",
                default="",
                choices=("s", "m", "l", "xl"),
            ),
            Option("--region", "only clusters of this region", metavar="REGION"),
            Option("--isolation-tier", "only clusters of this tier", metavar="TIER"),
            Option("--custom-hostname", "host name to record; the local provisioner serves none", metavar="HOST"),
            Option("--image-tag", "gateway release to record; the local provisioner has one", metavar="TAG"),
            Option(
                "--dry-run",
                "say what it would do, or why not; change nothing, show no gateway the config",
                kind="flag",
                default=False,
            ),
            *WAITING,
            *CLIENT,
        ),
        required=("org", "workspace", "env", "name"),
        shape="Result | Accepted | DryRun",
    ),
    Command(
        "provision delete",
        "mcpg.cli.provision:delete",
        "tear a managed gateway down",
        about="Takes --name or --instance-uid, one of the two. Asks first. The operation lives on the server: Ctrl-C"
        " leaves it running.",
        examples=(
            "mcpg-ctl provision delete --name edge-1",
            "mcpg-ctl provision delete --instance-uid 019a3c1e",
            "mcpg-ctl provision delete --instance-uid UID --yes -o json",
        ),
        options=(
            *PLACE,
            Option(
                "--instance-uid",
                "the gateway, or the beginning of its uid; `instance list -o wide` shows it",
                metavar="UID",
                names="instance",
            ),
            Option("--name", "the gateway, by its name", metavar="SLUG", names="gateway"),
            Option("--ignore-not-found", "exit 0 when it is not there", kind="flag", default=False),
            YES,
            CONFIRM,
            *WAITING,
            *CLIENT,
        ),
        required=("org", "workspace", "env"),
        shape="Result | Accepted | NotThere",
    ),
    Command(
        "provision history",
        "mcpg.cli.history:history",
        "recent operations, newest first",
        examples=(
            "mcpg-ctl provision history --org acme",
            "mcpg-ctl provision history --org acme --verbose --limit 1",
            "mcpg-ctl provision history --name edge-1 --verbose",
            "mcpg-ctl provision history --org acme -o jsonl",
        ),
        options=(
            ORG,
            Option("--name", "only of the gateway with this name", metavar="SLUG", names="gateway"),
            Option("--verbose", "every transition of every operation", kind="flag", default=False, short="-v"),
            Option("--limit", "how many operations", kind="int", metavar="N", default=20, low=1, high=1000),
            *CLIENT,
        ),
        required=("org",),
        shape="Operation[]",
    ),
)
