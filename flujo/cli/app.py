"""The command line: its commands, its errors and its exit codes."""

import logging
import traceback
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from flujo.application.core.outcome import describe_error
from flujo.cli.exit_codes import ExitCode, exit_code_of
from flujo.cli.terminal import prepare_streams, say_error
from flujo.exceptions import FlujoError


def _version() -> str:
    return f"flujo {installed_version('flujo')}"


def version() -> None:
    """Print the version of flujo."""
    print(_version())


app = App(
    name="flujo",
    help="Run AI workflows from the command line.",
    version=_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=(), show_default=False),
    usage="Usage: flujo [--debug] COMMAND [ARGUMENTS]",
)
COMMANDS = ("run", "resume", "validate", "show", "lens", "budget", "doctor", "bench")
"""The commands whose modules are loaded when they are called."""

for _name in COMMANDS:
    app.command(f"flujo.cli.{_name}_command:{_name}", name=_name)
app.command(version)
app.meta.result_action = "return_value"
app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def _with_common_options(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int | None:
    """Run a command.

    Args:
        tokens: The command and its arguments.
        debug: Show where an error comes from, and what flujo logs.
    """
    if debug:
        logging.basicConfig()
        logging.getLogger("flujo").setLevel(logging.DEBUG)
    try:
        return app(tokens, exit_on_error=False, print_error=False, verbose=False)  # type: ignore[no-any-return]  # what the command returns
    except Exception as error:  # a command runs the user's code
        if debug:
            traceback.print_exc()
        return _refused(error)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing but a bug escapes.

    Args:
        arguments: What follows the name of the program.
    """
    prepare_streams()
    if not any(argument in COMMANDS for argument in arguments):
        for command in COMMANDS:
            app[command]  # loads it, so that the help can say what it does
    try:
        code = app.meta(list(arguments), exit_on_error=False, print_error=False, verbose=False)
    except CycloptsError as error:
        return _refused(error)
    except KeyboardInterrupt as interrupt:
        say_error(str(interrupt) or "interrupted")
        return ExitCode.INTERRUPTED
    return code if isinstance(code, int) else ExitCode.SUCCESS


def _description(error: Exception) -> str:
    """Return an error of ours as it says itself, and any other with its type."""
    return str(error) if isinstance(error, FlujoError) else f"{describe_error(error)} (--debug shows where)"


def _refused(error: Exception) -> ExitCode:
    """Print an error on one line, and return the code of a command that ends with it."""
    if isinstance(error, UnusedCliTokensError):
        unused = " ".join(error.unused_tokens or ())
        say_error(f"unexpected argument {unused!r}; an input is given with --input, and quoted")
    elif isinstance(error, CycloptsError):
        say_error(str(error))
    else:
        say_error(_description(error))
    return ExitCode.WRONG_USAGE if isinstance(error, CycloptsError) else exit_code_of(error)
