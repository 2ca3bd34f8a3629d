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
  -o table   columns for people; nothing is cut when it is not a terminal
  -o wide    more columns
  -o name    one id a line, for xargs
  -o json    one JSON document; errors are one JSON object on stderr
  -o jsonl   one JSON object a line
  -o yaml    YAML
Colour: only on a terminal, never with NO_COLOR or TERM=dumb; FORCE_COLOR=1.
Ladder: moves on a terminal; one line an event when piped, with CI or TERM=dumb.
MCPG_DEBUG=1 adds the traceback to an error.
""",
}
