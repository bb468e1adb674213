"""The values that say how a step is tried and judged."""

import functools
from typing import Any

import pytest
from pydantic import ValidationError

from flujo import (
    AgentProcessors,
    BaseValidator,
    ConfigurationError,
    PluginOutcome,
    StepConfig,
    ValidationResult,
    validator,
)


def test_the_defaults_of_a_config_are_the_promised_ones() -> None:
    """One retry, no timeout, the model's own settings."""
    assert StepConfig().model_dump() == {
        "max_retries": 1,
        "timeout_s": None,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "preserve_fallback_diagnostics": False,
    }


@pytest.mark.parametrize("values", [{"max_retries": -1}, {"timeout_s": 0}, {"timeout_s": -1}, {"retries": 1}])
def test_an_impossible_config_is_refused(values: dict[str, Any]) -> None:
    """Values out of range and unknown keys are errors that name the key."""
    with pytest.raises(ValidationError, match=next(iter(values))):
        StepConfig(**values)


def test_a_config_is_a_value() -> None:
    """It cannot be changed once it is made, so steps may share it."""
    config = StepConfig(max_retries=3)

    with pytest.raises(ValidationError, match="frozen"):
        config.max_retries = 4

    assert config == StepConfig(max_retries=3)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (PluginOutcome, {"success": True, "feedbck": "x"}),
        (ValidationResult, {"is_valid": True, "name": "x"}),
        (AgentProcessors, {"prompt": []}),
    ],
)
def test_a_misspelt_field_is_refused(kind: Any, values: dict[str, Any]) -> None:
    """What users write by hand takes no unknown keys."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind(**values)


async def test_a_function_becomes_a_validator_of_its_name() -> None:
    """`@validator` keeps name and docstring; the function's verdict is the result."""

    @validator
    def polite(output: str) -> tuple[bool, str | None]:
        """Refuse what is rude."""
        return "please" in output, "say please"

    refused = await polite.validate("now!")
    accepted = await polite.validate("please", context=None)

    assert (polite.name, polite.__doc__) == ("polite", "Refuse what is rude.")
    assert refused == ValidationResult(is_valid=False, feedback="say please", validator_name="polite")
    assert accepted.is_valid


async def test_a_callable_object_becomes_a_validator_of_its_class() -> None:
    """What has no name of its own is called what its class is called."""

    class Shorter:
        def __call__(self, output: str) -> tuple[bool, str | None]:
            return len(output) < 3, None

    by_object = validator(Shorter())
    by_partial = validator(functools.partial(_shorter_than, characters=3))

    assert (by_object.name, by_partial.name) == ("Shorter", "partial")
    assert [(await judge.validate("abc")).is_valid for judge in (by_object, by_partial)] == [False, False]


def _shorter_than(output: str, characters: int) -> tuple[bool, str | None]:
    return len(output) < characters, None


def test_an_async_function_is_no_plain_check() -> None:
    """The error says what to write instead."""

    async def check(output: str) -> tuple[bool, str | None]:
        return True, None

    asynchronous: Any = check
    with pytest.raises(ConfigurationError, match=r"@validator takes a plain function; make .*check.* a BaseValidator"):
        validator(asynchronous)


async def test_a_base_validator_is_named_after_its_class_or_as_it_is_told() -> None:
    """The name is what feedback calls it."""

    class Short(BaseValidator):
        async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
            return ValidationResult(is_valid=len(output) < 3)

    assert (Short().name, Short("brief").name) == ("Short", "brief")
    assert (await Short().validate("ab")).is_valid


def test_a_validator_without_validate_cannot_be_made() -> None:
    """Forgetting the method shows when the object is made, not after an agent was paid."""

    class Forgetful(BaseValidator):
        pass

    kind: Any = Forgetful
    with pytest.raises(TypeError, match="validate"):
        kind()
