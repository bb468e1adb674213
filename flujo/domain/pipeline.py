"""The algebra of workflows: every step is a `BaseStep`, and a `Pipeline` is a step made of steps."""

import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Generic, NoReturn, Self, Union, cast

from pydantic import BaseModel
from typing_extensions import TypeVar

from flujo.domain.cost_ceiling import Ceiling, CostCeiling, ceiling_of
from flujo.domain.models import UsageLimits
from flujo.domain.results import PipelineResult
from flujo.domain.type_compatibility import fits, type_name
from flujo.exceptions import (
    ConfigurationError,
    ContextInheritanceError,
    FlujoError,
    ImproperStepInvocationError,
    InfiniteFallbackError,
    TypeMismatchError,
)

InT = TypeVar("InT", contravariant=True, default=Any)
OutT = TypeVar("OutT", covariant=True, default=Any)
OtherOutT = TypeVar("OtherOutT")
A = TypeVar("A")
B = TypeVar("B")

_MOST_NESTED = 80
"""Levels of steps within each other; each takes up to nine of the thousand frames that Python's stack has."""


@dataclass(frozen=True, slots=True)
class ValidationFinding:
    """One thing that `validate_graph` found.

    Attributes:
        step_name: The step it was found at.
        message: What is wrong and what to do.
        error: What a run would raise; `None` for a warning.
    """

    step_name: str
    message: str
    error: FlujoError | None = None

    def __str__(self) -> str:
        """Return the message."""
        return self.message


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What `validate_graph` found.

    Attributes:
        errors: What a run would refuse to start with.
        warnings: What is allowed but probably not meant.
    """

    errors: list[ValidationFinding] = field(default_factory=list[ValidationFinding])
    warnings: list[ValidationFinding] = field(default_factory=list[ValidationFinding])

    @property
    def is_valid(self) -> bool:
        """Whether a run may start."""
        return not self.errors

    def refuse(self, error: FlujoError, step_name: str) -> None:
        """Add an error."""
        self.errors.append(ValidationFinding(step_name, str(error), error))

    def warn(self, message: str, step_name: str) -> None:
        """Add a warning."""
        self.warnings.append(ValidationFinding(step_name, message))

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for finding in self.errors:
            if finding.error is not None:
                raise finding.error


class BaseStep(Generic[InT, OutT]):
    """What every kind of step has: a name, limits, a fallback, and `>>`.

    A kind of step of your own subclasses it, names its inner steps in `children`, and registers a handler with
    `@ExecutorCore.handles(Kind)`.

    Attributes:
        name: What the step is called in results, errors and traces.
        usage_limits: What each execution of the step may use, however often the run goes on; `None` for no limit of
            its own.
        fallback_step: What runs when the step failed.
        meta: Free for the user; flujo does not read it.
        input_key: The key of the input dict that the step works on; `None` for the whole input.
        is_guarded: Whether running the step takes more than its handler.
    """

    input_type: Any = Any
    """What the step takes, as far as it is declared."""
    output_type: Any = Any
    """What the step gives, as far as it is declared."""

    def __init__(
        self,
        name: str,
        *,
        usage_limits: UsageLimits | None = None,
        fallback_step: "BaseStep[Any, Any] | None" = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"a step needs a name, a string that is not empty; got {name!r}")
        if fallback_step is not None:
            _check_fallback(name, fallback_step)
        if usage_limits is not None and not isinstance(usage_limits, UsageLimits):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"step {name!r}: usage_limits is {usage_limits!r}; give UsageLimits(...)")
        self.name = name
        self.usage_limits = usage_limits
        self.fallback_step = fallback_step
        self.meta: dict[str, Any] = dict(meta or {})
        self.input_key: str | None = None
        self.is_guarded = usage_limits is not None or fallback_step is not None

    def __rshift__(self, following: "BaseStep[OutT, OtherOutT]") -> "Pipeline[InT, OtherOutT]":
        """Return the pipeline of this step and the following one."""
        if not isinstance(following, BaseStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(
                f"{self.describe()} >> {following!r}: not a step; wrap a function with Step.from_callable"
            )
        return Pipeline(steps=[*_steps_of(self), *_steps_of(following)])

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: a step is a value, and only a runner runs it."""
        raise ImproperStepInvocationError(
            f"{self.describe()} was called like a function; run it with Flujo({self.name}).run(...), "
            "or call the function you made it from"
        )

    def __repr__(self) -> str:
        """Return one line."""
        return f"{type(self).__name__}({self.name!r})"

    def describe(self) -> str:
        """Return how errors speak of this step."""
        return f"step {self.name!r}"

    def fallback(self, other: "BaseStep[InT, OutT]") -> Self:
        """Set what runs when all attempts of this step failed, and return this step.

        Raises:
            InfiniteFallbackError: `other` would lead back to this step.
        """
        _check_fallback(self.name, other)
        if any(step is self for step in other.walk()):
            raise InfiniteFallbackError(
                f"{self.describe()} cannot fall back on {other.describe()}, which leads back to {self.name!r}"
            )
        self.fallback_step = other
        self.is_guarded = True
        return self

    def use_input(self, key: str) -> "BaseStep[Mapping[str, Any], OutT]":
        """Return this step working on one key of its input dict, for instance one branch of a parallel step.

        Its fallback, which is to be set before, works on the same value.
        """
        keyed = cast("BaseStep[Mapping[str, Any], OutT]", self._copy())  # of the same kind, but fed with a dict
        keyed.input_key = key
        keyed.is_guarded = True
        return keyed

    def _copy(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def children(self) -> Iterable[tuple[str, "BaseStep[Any, Any]"]]:
        """Return the inner steps, each with its part of the path, such as `("branch:legal", pipeline)`."""
        return ()

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return what one execution of this step can cost at the most, without its fallback and its limits.

        A kind of step of your own is unbounded until it says: `return Ceiling.sum_of(inner, "its steps")`, say, if
        its handler runs each of its children once and charges nothing itself.

        Args:
            inner: What one execution of each of the `children` can cost, in their order.
        """
        del inner  # nobody knows how often a handler runs them
        why = f"what a {type(self).__name__} can cost is not known; let its class say it in own_ceiling"
        return Ceiling.none(why, is_reserved=False)

    def cost_ceiling(self, *, usage_limits: UsageLimits | None = None) -> CostCeiling:
        """Return what a run of this step can cost at the most, without running anything.

        A sequence adds, and so do parallel branches; of branches the dearest counts; loops, refinements and maps
        multiply by their bounds, retries by the attempts; a fallback comes on top.
        A hard limit in dollars bounds what reserves before it spends: calls of models, agents that ask for `meter`,
        and steps with `max_cost_usd`.
        A function whose declared answer cannot report a cost counts as costing nothing; any other is unbounded without
        `max_cost_usd`.

        It is as true as what it is told: that no attempt costs more than `max_cost_usd`, that types are what is
        answered, that a function of such a type raises no error that reports a cost, that an agent with a `meter`
        reserves what it spends, and that a provider bills no more than was reserved.
        A run that goes on after it failed or was killed may try again what it had paid for, which is not in it.

        Args:
            usage_limits: The limits of the run, as given to `Flujo`.
        """
        return ceiling_of(self, usage_limits)

    def walk(self) -> Iterator["BaseStep[Any, Any]"]:
        """Yield this step and all steps within it, fallbacks included, outer steps first."""
        waiting: list[BaseStep[Any, Any]] = [self]  # no recursion: whoever nests too deep is told so, and how deep
        while waiting:
            step = waiting.pop()
            yield step
            inner = [child for _, child in step.children()]
            if step.fallback_step is not None:
                inner.append(step.fallback_step)
            waiting.extend(reversed(inner))

    @property
    def touches_context(self) -> bool:
        """Whether the step itself, apart from the steps within it, may change the context or hand out parts of it.

        A kind whose handler only runs inner steps says `False`, so that the context need not be copied for it.
        """
        return True

    @property
    def may_change_context(self) -> bool:
        """Whether a run of this step, or of any step within it, may change the context that it sees."""
        if self.touches_context or (self.fallback_step is not None and self.fallback_step.may_change_context):
            return True
        return any(child.may_change_context for _, child in self.children())

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add to `report` what a run would refuse in this step itself, not in its children.

        Args:
            report: Takes what is found.
            context_model: The model of the run's context; `None` while it is not known.
        """

    def validate_graph(self, context_model: type | None = None) -> ValidationReport:
        """Return what a run of this step would refuse or what looks wrong, without running anything.

        Args:
            context_model: The model of the run's context, if it should be checked against.
        """
        report = ValidationReport()
        self._check_all(report, context_model)
        return report

    def inner_context_model(self, context_model: type | None) -> type | None:
        """Return the model of the context that the inner steps see; `context_model` is what this step sees."""
        return context_model

    def _check_all(self, report: ValidationReport, context_model: type | None) -> None:
        """Check this step and all steps within it, each against the context that it will see."""
        waiting, deepest = [_Checked(self, context_model, 1)], _Checked(self, context_model, 1)
        while waiting:
            at = waiting.pop()
            step, depth = at.step, at.depth
            deepest = max(at, deepest, key=lambda each: each.depth)
            if at.rescued is not None:
                at.rescued._check_fallback_input(report, step)
            step.check(report, at.context_model)
            is_its_step = isinstance(step, Pipeline) and len(step.steps) == 1 and not step.is_guarded
            inner_model, inner_depth = step.inner_context_model(at.context_model), depth + (not is_its_step)
            inner = [_Checked(child, inner_model, inner_depth) for _, child in step.children()]
            if step.fallback_step is not None:
                inner.append(_Checked(step.fallback_step, at.context_model, inner_depth, step))
            waiting.extend(reversed(inner))
        if deepest.depth > _MOST_NESTED:
            why = (
                f"steps are nested {deepest.depth} deep, down to {deepest.step.describe()}; a run takes at most "
                f"{_MOST_NESTED} levels, because Python's stack ends; flatten them"
            )
            report.refuse(ConfigurationError(why), deepest.step.name)

    def _check_fallback_input(self, report: ValidationReport, other: "BaseStep[Any, Any]") -> None:
        """Add a fallback that surely cannot take what this step takes."""
        ours, theirs = self.input_type, other.input_type
        if ours is Any or theirs is Any or other.input_key is not None or fits(ours, theirs) or fits(theirs, ours):
            return
        taker = f"its fallback, {other.describe()},"
        report.refuse(mismatch(self.describe(), ours, taker, theirs, verb="takes"), other.name)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A step to be checked: the model of the context that it sees, how deep it is, and whose fallback it is, if any."""

    step: BaseStep[Any, Any]
    context_model: type | None
    depth: int
    rescued: BaseStep[Any, Any] | None = None


class Pipeline(BaseStep[InT, OutT]):
    """Steps in order, each working on the output of the one before.

    Example:
        ```python
        from flujo import Pipeline, Step

        trim = Step.from_callable(str.strip, name="trim")
        shout = Step.from_callable(str.upper, name="shout")
        pipeline = trim >> shout
        assert [step.name for step in pipeline.steps] == ["trim", "shout"]
        ```
    """

    def __init__(
        self,
        *,
        steps: Sequence[BaseStep[Any, Any]],
        name: str = "pipeline",
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        if isinstance(steps, BaseStep) or not isinstance(steps, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"the steps of a pipeline are {steps!r}; give a list, or use Pipeline.from_step")
        if not steps:
            raise ConfigurationError("a pipeline needs at least one step")
        for step in steps:
            if not isinstance(step, BaseStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
                raise ConfigurationError(f"a pipeline is made of steps, not of {step!r}")
        self.steps = tuple(steps)
        self.input_type = Any if self.steps[0].input_key is not None else self.steps[0].input_type
        self.output_type = _given_type(self.steps[-1])

    @classmethod
    def from_step(cls, step: "BaseStep[A, B]") -> "Pipeline[A, B]":
        """Return the pipeline of one step; a pipeline is returned as it is."""
        return step if isinstance(step, Pipeline) and not step.is_guarded else Pipeline(steps=[step])

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the steps, each with its position."""
        return tuple((str(position), step) for position, step in enumerate(self.steps))

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return the sum over the steps."""
        return Ceiling.sum_of(inner, f"{len(inner)} steps" if len(inner) > 1 else "")

    @property
    def touches_context(self) -> bool:
        """A pipeline itself does not; its steps may."""
        return False

    @property
    def may_change_context(self) -> bool:
        """Whether any of the steps may."""
        if self.fallback_step is not None and self.fallback_step.may_change_context:
            return True
        return any(step.may_change_context for step in self.steps)

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add the neighbours that do not fit and the names that stand twice."""
        for before, after in pairwise(self.steps):
            for producer in alternatives(before):
                for consumer in alternatives(after):
                    if after.input_key is None and consumer.input_key is None:
                        check_flow(
                            report,
                            (producer.describe(), producer.output_type),
                            (consumer.describe(), consumer.input_type),
                            consumer.name,
                        )
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                report.warn(f"two steps of one pipeline are named {step.name!r}", step.name)
            seen.add(step.name)

    def as_step(self, name: str, *, inherit_context: bool = True) -> "BaseStep[InT, PipelineResult[OutT]]":
        """Return this pipeline as one step, whose output is the inner `PipelineResult`.

        Args:
            name: The step's name.
            inherit_context: Whether context fields flow in and back. `False` is a wall in both directions.
        """
        return SubPipelineStep(name, self, inherit_context=inherit_context)


class SubPipelineStep(BaseStep[InT, "PipelineResult[OutT]"], Generic[InT, OutT]):
    """A pipeline as one step, with a context of its own.

    Attributes:
        pipeline: What runs.
        inherit_context: Whether context fields flow in and back.
        context_model: The model of the inner context; `None` for that of the outer one.
        settings: What a runner that was made a step brings along; `None` for a plain pipeline.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline[InT, OutT],
        *,
        inherit_context: bool = True,
        usage_limits: UsageLimits | None = None,
        context_model: type | None = None,
        settings: Any = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        self.pipeline = pipeline
        self.inherit_context = inherit_context
        self.context_model = context_model
        self.settings = settings
        self.input_type = pipeline.input_type
        self.output_type = PipelineResult

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the pipeline."""
        return (("pipeline", self.pipeline),)

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of the pipeline."""
        return Ceiling.sum_of(inner, "its pipeline")

    @property
    def may_change_context(self) -> bool:
        """Whether anything can flow back: what the steps change, and what hooks of a runner do to its context."""
        if self.fallback_step is not None and self.fallback_step.may_change_context:
            return True
        has_hooks = self.settings is not None and bool(self.settings.hooks)
        return self.inherit_context and (has_hooks or self.pipeline.may_change_context)

    def inner_context_model(self, context_model: type | None) -> type | None:
        """Return the runner's own model; a plain pipeline has that of the outer context."""
        return context_model if self.context_model is None else self.context_model

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add what the context of a runner that was made a step needs and nobody gives."""
        if self.settings is not None and (context_model is not None or not self.inherit_context):
            self.check_context(report, self.context_model, context_model, given=self.settings.given)

    def check_context(
        self, report: ValidationReport, model: type | None, outer: type | None, *, given: Collection[str]
    ) -> None:
        """Add required fields of the inner context that neither the outer one nor data of its own gives.

        Args:
            report: Takes what is found.
            model: The model of the inner context.
            outer: The model of the outer context.
            given: The fields that are given by name.
        """
        known = {*given, *(_model_fields(outer) if self.inherit_context else ())}
        missing = tuple(name for name in _required_fields(model) if name not in known)
        if model is not None and missing:
            source = "the outer context" if self.inherit_context else "nothing, because inherit_context is False"
            message = (
                f"{self.describe()}: the sub-pipeline inherits from {source}: {model.__name__} lacks the required "
                f"fields {', '.join(missing)}; give them with initial_context_data"
            )
            report.refuse(ContextInheritanceError(message, fields=missing), self.name)


_FILLED = frozenset({"run_id", "initial_prompt"})
"""Fields of a context that the engine fills."""


def _model_fields(model: type | None) -> Collection[str]:
    return model.model_fields if model is not None and issubclass(model, BaseModel) else ()


def _required_fields(model: type | None) -> Sequence[str]:
    """Return the fields that a context cannot be made without; none if code of the model's own may fill them."""
    if model is None or not issubclass(model, BaseModel) or model.__init__ is not BaseModel.__init__:
        return ()
    validators = model.__pydantic_decorators__.model_validators.values()
    if any(validator.info.mode != "after" for validator in validators):
        return ()
    return [name for name, field in model.model_fields.items() if field.is_required() and name not in _FILLED]


def _check_fallback(name: str, other: object) -> None:
    if not isinstance(other, BaseStep):
        raise ConfigurationError(f"step {name!r}: the fallback is {reprlib.repr(other)}; give a step or a pipeline")


def alternatives(step: BaseStep[Any, Any]) -> Iterator[BaseStep[Any, Any]]:
    """Yield a step, and the fallbacks that work on its input and give its output when it failed."""
    yield step
    while (other := step.fallback_step) is not None:
        yield other
        step = other


def _given_type(step: BaseStep[Any, Any]) -> Any:
    """Return the type of what a step gives: its own, or that of one of its fallbacks."""
    types = [each.output_type for each in alternatives(step)]
    try:
        return Union[tuple(types)]  # noqa: UP007 - how many there are is not known
    except TypeError:  # a type may be declared as anything
        return types[0]


def _steps_of(step: BaseStep[Any, Any]) -> tuple[BaseStep[Any, Any], ...]:
    """Return a pipeline's steps, so that `>>` makes one flat pipeline; a guarded pipeline stays one step."""
    return step.steps if isinstance(step, Pipeline) and not step.is_guarded else (step,)


def check_flow(report: ValidationReport, producer: tuple[str, Any], consumer: tuple[str, Any], step_name: str) -> None:
    """Add an error if what one side gives is surely not what the other side takes.

    Args:
        report: Takes what is found.
        producer: Who gives, and the type given.
        consumer: Who takes, and the type taken.
        step_name: The step the finding belongs to.
    """
    (giver, produced), (taker, consumed) = producer, consumer
    if produced is Any or consumed is Any or produced is consumed or fits(produced, consumed):
        return
    report.refuse(mismatch(giver, produced, taker, consumed), step_name)


def mismatch(
    giver: str, produced: Any, taker: str, consumed: Any, *, verb: str = "gives", hint: str = ""
) -> TypeMismatchError:
    """Return the error that names both sides and both types, and what to do."""
    return TypeMismatchError(
        f"{giver} {verb} {type_name(produced)}, but {taker} takes {type_name(consumed)}{hint}",
        producer=giver,
        consumer=taker,
        produced=produced,
        consumed=consumed,
    )
