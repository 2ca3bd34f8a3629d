"""What `mcpg-ctl help TOPIC` prints."""

TOPICS = {
    "exit-codes": """\
Exit codes:
  0    it worked
  1    the operation or the command failed
  2    usage: a wrong command, option or value
  3    not found
  4    not signed in, or forbidden
  5    refused as things are: illegal transition, conflict, name taken
  6    no control plane answers
  7    no cluster has room
  8    still pending
  124  stopped waiting (--timeout); the operation goes on
  130  Ctrl-C; the operation goes on
  141  the reader of stdout went away
""",
    "output": """\
Output: data on stdout, everything else on stderr.
  -o table   columns for people
  -o wide    more columns, and nothing is cut
  -o name    one id a line, for xargs
  -o json    one JSON document; errors are one JSON object on stderr
  -o jsonl   one JSON object a line
  -o yaml    YAML
Colour: only on a terminal, never with NO_COLOR or TERM=dumb; FORCE_COLOR=1.
A line that is too long for the terminal ends in …; when piped nothing is cut but
the error in a list of operations, after 100 characters.
Times are RFC 3339 UTC in data; -o table shows how long ago.
Errors: error, cause, hint; the hint is the next command.
--json-logs: errors, notes and ladder as lines {at, level, event, message, …}.
Ladder: moves on a terminal; one line an event when piped, with CI or TERM=dumb.
MCPG_DEBUG=1 adds the traceback to an error.
""",
    "settings": """\
Where a value comes from: flag, else environment, else context, else default.
An empty environment variable counts as not set. `config explain` says it all.
  mcpg-ctl context add prod --cp-url https://cp.example --org acme --use
  mcpg-ctl provision history                  from context prod
  mcpg-ctl provision history --context dev    or MCPG_CONTEXT=dev
  mcpg-ctl provision history --context none   without any
quickstart stores the context `local` when none is stored yet.
In one added with --protected, what destroys asks for a typed name (--confirm).
A context holds no secret; its session file is used at its own URL only.
Contexts are in <state-dir>/contexts.json, which only you may be able to write.
""",
}
