"""Says something in a log that need not be said again."""

import logging
from functools import cache


@cache
def warn_once(log: logging.Logger, message: str) -> None:
    """Say something in a log, once in the life of the process."""
    log.warning("%s", message)
