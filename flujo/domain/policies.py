"""How a step is tried and judged: retries and timeouts, validators, plugins, processors."""

import inspect
import reprlib
import typing
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from flujo.exceptions import ConfigurationError, NonRetryableError


class StepConfig(BaseModel):
    """How a step calls its agent.

    Example:
        ```python
        from flujo import StepConfig

        patient = StepConfig(max_retries=3, timeout_s=30)
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_retries: Annotated[int, Field(ge=0)] = 1
    """Attempts after the first one."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds one attempt may take; `None` for no bound.

    A plain function runs in the event loop and cannot be interrupted, so no bound holds for it;
    to bound work that blocks, await `asyncio.to_thread(work, data)` in an async function.
    """
    temperature: float | None = None
    """Handed to agents that ask for it; `None` leaves the model's own default."""
    top_k: int | None = None
    """Handed to agents that ask for it."""
    top_p: float | None = None
    """Handed to agents that ask for it."""
    preserve_fallback_diagnostics: bool = False
    """Keep the primary's feedback on a result that its fallback rescued."""


class StepConfigValues(TypedDict, total=False):
    """The values of `StepConfig`, as keyword arguments of a step."""

    max_retries: int
    timeout_s: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    preserve_fallback_diagnostics: bool


class PluginOutcome(BaseModel):
    """A plugin's verdict on an output.

    Example:
        ```python
        from flujo import PluginOutcome

        class Brief:
            async def validate(self, data: dict[str, object]) -> PluginOutcome:
                return PluginOutcome(success=len(str(data["output"])) < 280, feedback="at most 280 characters")
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    success: bool
    feedback: str | None = None
    """What is wrong; goes into the next attempt's input."""
    redirect_to: Any = None
    """The agent that makes the next attempt, if the output is refused."""
    new_solution: Any = None
    """Takes the output's place, if the output is accepted; `None` keeps the output."""


class ValidationPlugin(Protocol):
    """Judges an output, and may redirect the next attempt to another agent."""

    async def validate(self, data: dict[str, Any], /) -> PluginOutcome:
        """Judge `{"output": ..., "solution": ..., "feedback": ...}`; `output` and `solution` are the same."""
        ...


class ValidationResult(BaseModel):
    """A validator's verdict on an output.

    Example:
        ```python
        from flujo import BaseValidator, ValidationResult

        class Brief(BaseValidator):
            async def validate(self, output: str, *, context: object = None) -> ValidationResult:
                return ValidationResult(is_valid=len(output) < 280, feedback="at most 280 characters")
        ```
    """

    model_config = ConfigDict(extra="forbid")

    is_valid: bool
    feedback: str | None = None
    """What is wrong; goes into the next attempt's input."""
    validator_name: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class Validator(Protocol):
    """Judges an output; in feedback it is called what its results say, or else its `name` or its class."""

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        """Judge one output."""
        ...


class BaseValidator(ABC):
    """A validator with a name; subclass it and write `validate`.

    Example:
        ```python
        from typing import Any

        from flujo import BaseValidator, ValidationResult

        class MaxLength(BaseValidator):
            def __init__(self, characters: int) -> None:
                super().__init__()
                self.characters = characters

            async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
                is_valid = len(output) <= self.characters
                return ValidationResult(is_valid=is_valid, feedback=f"at most {self.characters} characters")
        ```
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name or type(self).__name__

    @property
    def name(self) -> str:
        """What the validator is called in feedback; the class name by default."""
        return self._name

    @abstractmethod
    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        """Judge one output; a name that the result lacks is filled in."""


class _FunctionValidator(BaseValidator):
    def __init__(self, check: Callable[[Any], tuple[bool, str | None]]) -> None:
        super().__init__(getattr(check, "__name__", type(check).__name__))  # a callable object need not have one
        self._check = check
        self.__doc__ = check.__doc__

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        said: object = self._check(output)
        match said:
            case (bool(is_valid), str() | None as feedback):
                return ValidationResult(is_valid=is_valid, feedback=feedback, validator_name=self.name)
            case _:
                raise NonRetryableError(
                    f"validator {self.name} returned {reprlib.repr(said)}; return (is_valid, feedback or None)"
                )


def validator(check: Callable[[Any], tuple[bool, str | None]]) -> BaseValidator:
    """Make a validator of a function that returns `(is_valid, feedback or None)`.

    Example:
        ```python
        from flujo import validator

        @validator
        def short_enough(output: str) -> tuple[bool, str | None]:
            return len(output) <= 280, "at most 280 characters"
        ```
    """
    if inspect.iscoroutinefunction(check):
        raise ConfigurationError(f"@validator takes a plain function; make {check!r} a BaseValidator")
    return _FunctionValidator(check)


class Processor(Protocol):
    """Changes what goes to an agent or what comes from it."""

    async def process(self, data: Any, context: Any) -> Any:
        """Return the data to go on with."""
        ...


class AgentProcessors(BaseModel):
    """Processors around an agent: of its input, once, and of the output of every attempt.

    Example:
        ```python
        from flujo import AgentProcessors, Flujo, Step

        class Strip:
            async def process(self, data: str, context: object) -> str:
                return data.strip()

        step = Step("shout", str.upper, processors=AgentProcessors(prompt_processors=[Strip()]))
        assert Flujo(step).run(" hello ").output == "HELLO"
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    prompt_processors: list[Any] = Field(default_factory=list[Any])
    """Objects with `async process(data, context)`, applied in order to the step's input."""
    output_processors: list[Any] = Field(default_factory=list[Any])
    """Objects with `async process(data, context)`, applied in order to the agent's output."""


def check_method(step_name: str, owner: object, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Refuse a method of a plugin, a validator or a processor that could not be awaited, or called like this.

    Raises:
        ConfigurationError: It is a plain function, or takes other arguments.
    """
    if not inspect.isroutine(method):
        return  # an object that can be called may do anything
    place = f"step {step_name!r}: {type(owner).__name__}.{method.__name__}"
    if _is_plain(method):
        raise ConfigurationError(f"{place} is a plain function; write `async def {method.__name__}`")
    try:
        signature = inspect.signature(method)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        called_with = ", ".join([*map(str, args), *(f"{name}=..." for name in kwargs)])
        raise ConfigurationError(f"{place} takes {signature}, but is called with ({called_with})") from None


def _is_plain(method: Callable[..., Any]) -> bool:
    """Return whether a method is surely not async: not declared so, not decorated, not said to give an awaitable."""
    function: Any = inspect.unwrap(method)
    if inspect.iscoroutinefunction(method) or not inspect.isroutine(function) or function is not method:
        return False
    declared = getattr(function, "__annotations__", {}).get("return")
    kind = typing.get_origin(declared) or declared
    return not (isinstance(kind, str) or (inspect.isclass(kind) and issubclass(kind, Awaitable)))
