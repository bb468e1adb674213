"""The step that calls an agent: its declaration."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Protocol, Unpack, cast, runtime_checkable

from pydantic import BaseModel, ValidationError
from typing_extensions import TypeVar

from flujo.domain.agents import SETTINGS, AgentCall
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.models import UsageLimits
from flujo.domain.money import exact_usd, format_usd, multiply_usd
from flujo.domain.pipeline import BaseStep, ValidationReport, mismatch
from flujo.domain.policies import (
    AgentProcessors,
    StepConfig,
    StepConfigValues,
    ValidationPlugin,
    Validator,
    check_method,
)
from flujo.domain.prompts import PromptTemplate
from flujo.domain.type_compatibility import fits, members, type_name
from flujo.exceptions import ConfigurationError, MissingAgentError

InT = TypeVar("InT", contravariant=True, default=Any)
OutT = TypeVar("OutT", covariant=True, default=Any)


class StepOptions(StepConfigValues, total=False):
    """The options of `AgentStep`, as keyword arguments of a step."""

    config: StepConfig | None
    plugins: Sequence[tuple[ValidationPlugin, int]]
    validators: Sequence[Validator]
    processors: AgentProcessors | None
    prompt: PromptTemplate | str | None
    message_history: str | None
    usage_limits: UsageLimits | None
    updates_context: bool
    validate_fields: bool
    persist_feedback_to_context: str | None
    persist_validation_results_to: str | None
    failure_handlers: Sequence[Callable[[], object]]
    strict: bool
    max_cost_usd: Decimal | float | None
    meta: Mapping[str, Any] | None


class AgentStep(BaseStep[InT, OutT]):
    """One call of an agent, with retries, judgement and limits; users write `Step`.

    Attributes:
        config: Retries, timeout and model settings.
        plugins: Plugins with their priority, highest first.
        validators: Validators, in order.
        processors: Processors of input and output.
        prompt: What makes the agent's input of the step's; `None` if the input is given as it is.
        message_history: The context field that has the conversation which the agent goes on with; `None` for none.
        updates_context: Whether the output is merged into the context.
        is_strict: Whether a failed validation fails the step.
        max_cost: The most US dollars that one call of the agent costs, exact; `None` if the user gave no bound.
        is_judged: Whether an output has to pass anything after it came.
    """

    def __init__(
        self,
        name: str,
        agent: Any = None,
        *,
        config: StepConfig | None = None,
        plugins: Sequence[tuple[ValidationPlugin, int]] = (),
        validators: Sequence[Validator] = (),
        processors: AgentProcessors | None = None,
        prompt: PromptTemplate | str | None = None,
        message_history: str | None = None,
        fallback_step: BaseStep[InT, OutT] | None = None,
        usage_limits: UsageLimits | None = None,
        updates_context: bool = False,
        validate_fields: bool = False,
        persist_feedback_to_context: str | None = None,
        persist_validation_results_to: str | None = None,
        failure_handlers: Sequence[Callable[[], object]] = (),
        strict: bool = True,
        max_cost_usd: Decimal | float | None = None,
        meta: Mapping[str, Any] | None = None,
        **config_values: Unpack[StepConfigValues],
    ) -> None:
        super().__init__(name, usage_limits=usage_limits, fallback_step=fallback_step, meta=meta)
        self.config = _configure(name, config, config_values)
        self.plugins = tuple(sorted(_checked_plugins(name, plugins), key=lambda entry: -entry[1]))
        self.validators = tuple(_checked_validators(name, validators))
        self.processors = _checked_processors(name, processors)
        self.prompt = PromptTemplate(prompt) if isinstance(prompt, str) else prompt
        self.message_history = message_history
        self.updates_context = updates_context
        self.validate_fields = validate_fields
        self.persist_feedback_to_context = persist_feedback_to_context
        self.persist_validation_results_to = persist_validation_results_to
        self.failure_handlers = tuple(_checked_handlers(name, failure_handlers))
        self.is_strict = strict
        self.max_cost = None if max_cost_usd is None else _checked_cost(name, max_cost_usd)
        self.is_judged = bool(self.plugins or self.validators or self.processors.output_processors)
        self.settings = {setting: value for setting in SETTINGS if (value := getattr(self.config, setting)) is not None}
        self.bind(agent)

    @property
    def agent(self) -> Any:
        """The agent that the step calls; `None` while it has none."""
        return self._agent

    @property
    def call(self) -> AgentCall[Any, Any] | None:
        """How the agent is called; `None` while the step has none."""
        return self._call

    @property
    def is_bounded(self) -> bool:
        """Whether it is known, before an attempt or each of its calls, what that can cost at the most."""
        return self.max_cost is not None or self._call is None or not self._call.may_report_cost

    @property
    def touches_context(self) -> bool:
        """Whether the agent, or what stands around it, may read or change the context."""
        asks = self._call is not None and "context" in self._call.keywords
        is_made = self.prompt is not None or bool(self.processors.prompt_processors)
        return asks or self.updates_context or self.is_judged or is_made or self.message_history is not None

    @property
    def may_change_context(self) -> bool:
        """Whether the agent, what stands around it, or the fallback may change the context."""
        return self.touches_context or (self.fallback_step is not None and self.fallback_step.may_change_context)

    def bind(self, agent: Any) -> None:
        """Give the step another agent; its types follow. An agent that is refused changes nothing.

        Raises:
            ConfigurationError: It is nothing that can be called with a step's input.
        """
        call = None if agent is None else AgentCall.of(agent, self.name)
        self._agent = agent
        self._call: AgentCall[Any, Any] | None = call
        self.input_type, self.output_type = (call.input_type, call.output_type) if call else (Any, Any)
        if self.prompt is not None:
            self.input_type = Any  # a template takes anything

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return what all attempts can cost."""
        attempts = 1 + self.config.max_retries
        if self.max_cost is not None:
            noun = "attempt" if attempts == 1 else "attempts"
            usd = multiply_usd(self.max_cost, Decimal(attempts))
            return Ceiling(usd=usd, basis=f"{attempts} {noun} of {format_usd(self.max_cost)}")
        if self._call is None:
            return Ceiling.none("it has no agent; give it one with Step(name, agent)", is_reserved=False)
        if self.plugins and self.is_strict and attempts > 1:
            why = "its plugins may redirect the next attempt to any agent; give it max_cost_usd, or max_retries=0"
            return Ceiling.none(why, is_reserved=False)
        if self._call.may_report_cost:
            why = (
                "its agent may report any cost; give the step max_cost_usd, or declare that the agent answers with a "
                "type that reports none, such as str"
            )
            return Ceiling.none(why, is_reserved=False)
        if self._call.is_metered:
            why = (
                "its agent may ask as often and as much as it likes; give the step max_cost_usd, or "
                "usage_limits=UsageLimits(total_cost_usd_limit=...)"
            )
            return Ceiling.none(why, is_reserved=True)
        return Ceiling.free("reports no cost")

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add a missing agent, and what does not go with the run's context."""
        if self._call is None:
            report.refuse(
                MissingAgentError(f"step {self.name!r} has no agent; give it one with Step(name, agent)"),
                self.name,
            )
            return
        is_tried_again = self.is_strict and self.config.max_retries and (self.plugins or self.validators)
        if is_tried_again and not self._call.hears_feedback:
            report.warn(
                f"step {self.name!r} tries again what was refused, but its agent cannot learn why: "
                "give it a keyword argument `feedback`, or its input a field `feedback: str | None`",
                self.name,
            )
        if context_model is not None:
            self._check_context(report, context_model, self._call)

    def _check_context(self, report: ValidationReport, context_model: type, call: AgentCall[Any, Any]) -> None:
        wanted = call.context_type
        if isinstance(wanted, type) and issubclass(wanted, BaseModel) and not fits(context_model, wanted):
            model = wanted.__name__
            hint = f"; give the runner context_model={model}, or the command line --context-model {model}"
            taker = f"context of step {self.name!r}"
            report.refuse(mismatch("the run", context_model, taker, wanted, hint=hint), self.name)
        fields = _fields_of(context_model)
        if self.message_history is not None:
            self._check_history(report, fields.get(self.message_history), context_model, call)
        for name in (self.persist_feedback_to_context, self.persist_validation_results_to):
            if name is not None and name not in fields:
                report.refuse(
                    ConfigurationError(
                        f"step {self.name!r} writes to the context field {name!r}, which "
                        f"{context_model.__name__} does not have"
                    ),
                    self.name,
                )
        if self.validate_fields:
            self._check_output_fields(report, fields)

    def _check_history(
        self, report: ValidationReport, kind: Any, context_model: type, call: AgentCall[Any, Any]
    ) -> None:
        why, adapted = None, call.adapted
        if kind is None or not fits(list[Any], kind) or not fits(kind, list[Any]):
            why = f"the context field {self.message_history!r}, which {context_model.__name__} does not have as a list"
        elif not call.hears_messages:
            why = "a conversation, which its agent cannot go on with; give a model's, or one that asks for `messages`"
        elif adapted is not None and not any(fits(each, kind) for each in adapted.conversation_types):
            why = f"the context field {self.message_history!r}, a {type_name(kind)}; make it a list[dict[str, Any]]"
        if why is not None:
            report.refuse(ConfigurationError(f"step {self.name!r} has the message_history of {why}"), self.name)

    def _check_output_fields(self, report: ValidationReport, fields: Mapping[str, Any]) -> None:
        if self.updates_context and not any(map(_may_update, members(self.output_type))):
            given = type_name(self.output_type)
            why = f"step {self.name!r} updates the context, but gives {given}; give a dict, a model or a dataclass"
            report.refuse(ConfigurationError(why), self.name)
        for name, produced in _fields_of(self.output_type).items():
            if name not in fields:
                report.refuse(unknown_field(self.name, name, fields), self.name)
            elif not fits(produced, fields[name]):
                report.refuse(
                    mismatch(f"step {self.name!r}", produced, f"context field {name!r}", fields[name]),
                    self.name,
                )


def _configure(name: str, config: StepConfig | None, values: Mapping[str, Any]) -> StepConfig:
    for key in values:
        if key not in StepConfig.model_fields:
            near = difflib.get_close_matches(key, [*StepOptions.__annotations__, "agent", "fallback_step"], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"step {name!r} got an unexpected keyword argument {key!r}{hint}")
    if config is not None and not isinstance(config, StepConfig):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ConfigurationError(f"step {name!r}: config is {reprlib.repr(config)}; give a StepConfig(...)")
    if config is not None and not values:
        return config
    try:
        return StepConfig.model_validate({**(config.model_dump() if config else {}), **values})
    except ValidationError as error:
        problems = "; ".join(
            f"{problem['loc'][0]} is {reprlib.repr(problem['input'])}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
            for problem in error.errors(include_url=False, include_context=False)
        )
        raise ConfigurationError(f"step {name!r}: {problems}") from None


@runtime_checkable
class _Judge(Protocol):
    def validate(self, data: Any, /) -> Any: ...


@runtime_checkable
class _Processes(Protocol):
    def process(self, data: Any, context: Any, /) -> Any: ...


def _checked_plugins(name: str, plugins: Iterable[object]) -> Iterator[tuple[ValidationPlugin, int]]:
    for entry in plugins:
        match entry:
            case (_Judge() as plugin, int(priority)):
                check_method(name, plugin, plugin.validate, "data")
                yield plugin, priority
            case _:
                raise ConfigurationError(
                    f"step {name!r}: {reprlib.repr(entry)} is not a plugin with its priority; give (plugin, 0), "
                    "where the plugin has `async def validate(self, data)`"
                )


def _checked_validators(name: str, validators: Iterable[object]) -> Iterator[Validator]:
    for each in validators:
        if not isinstance(each, _Judge) or isinstance(each, type):
            raise ConfigurationError(
                f"step {name!r}: {reprlib.repr(each)} is not a validator; decorate a function with @validator, "
                "or give an object with `async def validate(self, output, *, context)`"
            )
        check_method(name, each, each.validate, "output", context=None)
        yield cast("Validator", each)  # its name is asked for only where its verdict has none


def _checked_processors(name: str, processors: object) -> AgentProcessors:
    if processors is None:
        return AgentProcessors()
    if not isinstance(processors, AgentProcessors):
        raise ConfigurationError(f"step {name!r}: processors is {reprlib.repr(processors)}; give AgentProcessors(...)")
    for each in (*processors.prompt_processors, *processors.output_processors):
        if not isinstance(each, _Processes) or isinstance(each, type):
            raise ConfigurationError(
                f"step {name!r}: {reprlib.repr(each)} is not a processor; give an object with "
                "`async def process(self, data, context)`"
            )
        check_method(name, each, each.process, "data", "context")
    return processors


def _checked_cost(name: str, max_cost_usd: Decimal | float) -> Decimal:
    try:
        return exact_usd(max_cost_usd)
    except ValueError as error:
        raise ConfigurationError(f"step {name!r}: max_cost_usd is {max_cost_usd!r}; {error}") from None


def _checked_handlers(name: str, handlers: Iterable[Callable[[], object]]) -> Iterator[Callable[[], object]]:
    for handler in handlers:
        if not callable(handler):
            raise ConfigurationError(f"step {name!r}: the failure handler {reprlib.repr(handler)} cannot be called")
        yield handler


def _may_update(kind: Any) -> bool:
    """Tell whether values of a type may be merged into a context."""
    return fits(kind, Mapping) or is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _fields_of(model: Any) -> dict[str, Any]:
    """Return the fields of a model, a dataclass or a TypedDict with their types; nothing for any other type."""
    if is_dataclass(model):
        return {each.name: Any if isinstance(each.type, str) else each.type for each in fields(model)}
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    if isinstance(model, type) and issubclass(model, dict):
        return dict(model.__annotations__) if "__total__" in model.__dict__ else {}
    return {}


def unknown_field(step_name: str, field: str, fields: Mapping[str, Any]) -> ConfigurationError:
    """Return the error for a step that gives a field the context does not have."""
    near = difflib.get_close_matches(field, list(fields), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigurationError(f"step {step_name!r} gives {field!r}, which the context does not have{hint}")
