"""How a command ends: its exit codes, and the error that means wrong usage."""

from enum import IntEnum

from flujo.exceptions import (
    AnswerRejectedError,
    ConfigurationError,
    ContextInheritanceError,
    FlujoError,
    PipelineChangedError,
    PipelineContextInitializationError,
    RunNotFoundError,
)


class ExitCode(IntEnum):
    """What the shell is told."""

    SUCCESS = 0
    FAILED = 1
    """The run failed, or something broke."""
    WRONG_USAGE = 2
    """The usage, the input, the file or the workflow in it is wrong."""
    LIMIT = 3
    """A usage limit stopped the run."""
    WAITING = 4
    """The run waits for a person."""
    INTERRUPTED = 130
    """As by Ctrl-C."""


class WrongUsageError(FlujoError):
    """What the user gave on the command line does not work; the message is one line that says why."""


MISTAKES = (
    WrongUsageError,
    ConfigurationError,
    ContextInheritanceError,
    PipelineContextInitializationError,
    RunNotFoundError,
    AnswerRejectedError,
    PipelineChangedError,
)
"""Errors that mean `ExitCode.WRONG_USAGE`."""


def exit_code_of(error: Exception) -> ExitCode:
    """Return the code of a command that ends with an error."""
    return ExitCode.WRONG_USAGE if isinstance(error, MISTAKES) else ExitCode.FAILED
