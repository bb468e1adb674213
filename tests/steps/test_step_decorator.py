"""`@step`: what it refuses, and what the function keeps."""

import inspect
from typing import Any, cast

import pytest

from flujo import ConfigurationError, step

_STEP: Any = step
"""`step` for programs that no type checker has seen."""


class _Service:
    async def name_of(self, data: str) -> str:
        return data


@pytest.mark.parametrize(
    ("decorate", "complaint"),
    [
        (lambda: _STEP(_Service.name_of), "_Service.name_of is a method and takes `self`, which no step passes"),
        (lambda: _STEP(_Service.name_of), r"Step.from_callable\(obj.name_of\)"),
        (lambda: _STEP(max_retries=0)(_Service.name_of), "_Service.name_of is a method"),
        (lambda: _STEP("fetch"), r"give the name by keyword, @step\(name='fetch'\)"),
    ],
)
def test_a_decorator_that_is_misused_says_how_it_is_used(decorate: Any, complaint: str) -> None:
    """A method of a class and a name by position are refused when the module is loaded."""
    with pytest.raises(ConfigurationError, match=complaint):
        decorate()


def test_a_decorated_function_keeps_its_documentation() -> None:
    """`help` and documentation tools find the function's own words, and the function itself."""

    async def fetch(data: str) -> str:
        """Fetch a page."""
        return data

    made = step(fetch)

    assert (made.__doc__, inspect.unwrap(cast("Any", made))) == ("Fetch a page.", fetch)
