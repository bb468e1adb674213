"""Whether an agent of pydantic-ai hands its answer to a function, whose work must not be done more than once."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

_WITHIN = ("output", "outputs", "output_function")  # of pydantic-ai's markers, such as `ToolOutput` and `TextOutput`


def has_output_function(output_type: Any) -> bool:
    """Tell whether a declared output is a function of the answer, or may be one."""
    if inspect.isroutine(output_type) or isinstance(output_type, functools.partial):
        return True
    if isinstance(output_type, Sequence) and not isinstance(output_type, str):
        return any(map(has_output_function, output_type))  # pyright: ignore[reportUnknownArgumentType]  # of any types
    if inspect.isclass(output_type) or type(output_type).__module__.partition(".")[0] != "pydantic_ai":
        return False
    marked: dict[str, Any] = vars(output_type)
    return any(has_output_function(marked[name]) for name in _WITHIN if name in marked)
