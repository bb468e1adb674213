"""The kinds of values that commands take."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter, Token
from cyclopts.validators import Number


def _whole_number(_kind: type, tokens: Sequence[Token]) -> int:
    """Read an integer; cyclopts by itself would round `1.5`."""
    (token,) = tokens
    if not token.value.lstrip("-").isdecimal():
        raise ValueError(f"{token.value!r} is not an integer")
    return int(token.value)


FreeText = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A value that may begin with a hyphen."""

Count = Annotated[int, Parameter(converter=_whole_number, n_tokens=1, validator=Number(gte=1))]
"""An integer, at least 1."""
