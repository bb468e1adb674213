"""The `flujo` command: everything a user does with workflows from a shell.

Importing this package loads neither the command line nor its libraries; `main` does.

Exit codes, of every command:

| code | meaning |
|---|---|
| 0 | success |
| 1 | the run failed |
| 2 | wrong usage, input or file; nothing was run |
| 3 | a usage limit stopped the run |
| 4 | the run waits for a person |
| 130 | interrupted, as by Ctrl-C |

What a command gives is on stdout, everything else on stderr; an error is one line that starts with `error: `.
"""

import importlib
import signal
import sys


def main() -> None:
    """Run the command line of this process and exit with its code."""
    try:
        app = importlib.import_module("flujo.cli.app")  # late: its libraries are heavy, and only needed here
        code: int = app.run_command_line(sys.argv[1:])
    except KeyboardInterrupt:  # while loading; later ones become a code and a message
        code = 130
    if code == 130:  # the next Ctrl-C ends what Python waits for when it exits, such as threads of the user's
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)
