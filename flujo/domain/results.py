"""What a workflow gives back: the result of a step and the result of a run.

A run makes one `StepResult` for every step, iteration, branch and item, and keeps them all,
so it is a class with slots whose rarely used parts are made when they are first asked for:
a loop of 100,000 iterations costs some 150 bytes for each.
"""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, computed_field
from pydantic_core import CoreSchema, SchemaSerializer, core_schema
from typing_extensions import TypeVar

from flujo.domain.metering import MeteredCall
from flujo.domain.models import StepPath
from flujo.domain.money import ZERO, add_usd, exact_usd, format_usd

StepStatus = Literal["completed", "failed", "paused", "stopped", "aborted"]
"""How a step ended; `stopped` is cut short or refused by a usage limit, `aborted` by a `PipelineAbortSignal`."""

RunStatus = Literal["completed", "failed", "paused", "stopped", "aborted", "cancelled"]
"""How a run ended."""

OutT = TypeVar("OutT", default=Any, covariant=True)

UNCERTAIN = "uncertain_cost_usd"
"""The key of `metadata_` with the dollars that were charged for calls of which nobody knows what they cost."""

CALLS = "calls"
"""The key of `metadata_` with the calls of a step that were metered; see `StepResult.calls`."""


class StepResult:
    """What one step did: its output, what it took and what it cost.

    Attributes:
        name: The step's name.
        output: What the step gave; of a failed step the last output that was rejected, or `None`.
        status: How the step ended.
        attempts: How often the agent was called; of a loop the number of iterations.
        latency_s: Seconds from start to end, waiting included.
        token_counts: Tokens of all attempts and of all children, input and output together.
        cost: US dollars of all attempts and of all children, exact.
        feedback: Why the step failed, or `None`.
        branch_context: The branch's own copy of the context, where the step ran as a branch.
    """

    __slots__ = (
        "_metadata",
        "_step_history",
        "attempts",
        "branch_context",
        "cost",
        "feedback",
        "latency_s",
        "name",
        "output",
        "status",
        "token_counts",
    )

    def __init__(
        self,
        name: str,
        output: Any = None,
        *,
        success: bool = True,
        status: StepStatus | None = None,
        attempts: int = 1,
        latency_s: float = 0.0,
        token_counts: int = 0,
        cost_usd: float | None = None,
        cost: Decimal = ZERO,
        feedback: str | None = None,
        branch_context: Any = None,
        metadata_: dict[str, Any] | None = None,
        step_history: list["StepResult"] | None = None,
    ) -> None:
        self.name = name
        self.output = output
        self.status: StepStatus = status or ("completed" if success else "failed")
        self.attempts = attempts
        self.latency_s = latency_s
        self.token_counts = token_counts
        self.cost = cost if cost_usd is None else exact_usd(cost_usd)
        self.feedback = feedback
        self.branch_context = branch_context
        self._metadata = metadata_
        self._step_history = step_history

    @property
    def success(self) -> bool:
        """Whether the step completed."""
        return self.status == "completed"

    @property
    def cost_usd(self) -> float:
        """US dollars as a float, correctly rounded; `cost` is exact."""
        return float(self.cost)

    @property
    def metadata_(self) -> dict[str, Any]:
        """What this kind of step has to say besides, such as `exit_reason` or `cache_hit`."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def step_history(self) -> list[Self]:
        """One result for every child that ran: step, branch, iteration or item; empty for an agent step."""
        if self._step_history is None:
            self._step_history = []
        return self._step_history  # type: ignore[return-value]  # children are of the class of their parent

    @property
    def calls(self) -> Sequence[MeteredCall]:
        """The calls of an agent step that were metered, each with what it was charged, in the order they ended.

        Those of all attempts are here, whichever way they ended: requests to models, of the agent and of all agents
        that ran within the step, and what an agent reserved by itself. Requests that cost nothing, because the
        provider refused them, are not. Those in flight when a process was killed stand together as one. What the step
        cost besides is one more, without a label, so that they add up to `cost`; if nothing was metered there are
        none. They are stored in `metadata_`.
        """
        calls: Sequence[MeteredCall] = () if self._metadata is None else self._metadata.get(CALLS, ())
        return calls

    def add_earlier_calls(self, calls: Sequence[MeteredCall]) -> None:
        """Add calls that were made before those of this result; what they cost is added by whoever adds them."""
        if calls:
            self._metadata = {**(self._metadata or {}), **told_of_calls([*calls, *self.calls])}

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a dict of its public fields, children as `StepResult`."""
        return {
            "name": self.name,
            "output": self.output,
            "success": self.success,
            "status": self.status,
            "attempts": self.attempts,
            "latency_s": self.latency_s,
            "token_counts": self.token_counts,
            "cost_usd": self.cost_usd,
            "cost": self.cost,
            "feedback": self.feedback,
            "branch_context": self.branch_context,
            "metadata_": self._metadata or {},
            "step_history": self._step_history or [],
        }

    def __repr__(self) -> str:
        """Return one line, however large the output is."""
        spent = f", cost={format_usd(self.cost)}" if self.cost else ""
        why = f", feedback={reprlib.repr(self.feedback)}" if self.feedback else ""
        return f"StepResult({self.name!r}, {self.status}, attempts={self.attempts}{spent}{why})"

    def __eq__(self, other: object) -> bool:
        """Tell whether the other one is a result with the same fields."""
        return isinstance(other, StepResult) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]  # a result may be changed

    __pydantic_serializer__: ClassVar[SchemaSerializer]
    """Lets pydantic write results wherever they are: in a history, or within an output of any type."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic models hold step results and write them as JSON."""
        return _STEP_RESULT_SCHEMA


_STEP_RESULT_SCHEMA = core_schema.is_instance_schema(
    StepResult, serialization=core_schema.plain_serializer_function_ser_schema(StepResult.as_dict)
)
StepResult.__pydantic_serializer__ = SchemaSerializer(_STEP_RESULT_SCHEMA)


@dataclass(frozen=True, slots=True, repr=False)
class TraceNode:
    """One node of `PipelineResult.trace_tree`: a step, and the steps within it."""

    name: str
    status: str
    attempts: int
    latency_s: float
    cost: Decimal
    token_counts: int
    children: tuple["TraceNode", ...]

    @classmethod
    def of(cls, result: StepResult) -> "TraceNode":
        """Return the tree below one step result."""
        children = tuple(cls.of(child) for child in result.step_history)
        return cls(
            result.name,
            result.status,
            result.attempts,
            result.latency_s,
            result.cost,
            result.token_counts,
            children,
        )

    def __repr__(self) -> str:
        """Return one line, however many steps are below."""
        spent = f", cost={format_usd(self.cost)}" if self.cost else ""
        return f"TraceNode({self.name!r}, {self.status}, children={len(self.children)}{spent})"


class Waiting(BaseModel):
    """A step that waits for a person."""

    model_config = ConfigDict(frozen=True)

    path: StepPath
    """The address of the step; `Flujo.resume` takes it when several steps wait."""
    step_name: str
    message: str
    """What the person is asked."""
    input_schema: Any = Field(default=None, exclude=True)
    """The type an answer has to fit, or `None` for any."""


class PipelineResult(BaseModel, Generic[OutT]):
    """What a run did.

    Example:
        ```python
        from flujo import Flujo, Step

        result = Flujo(Step.from_callable(str.upper, name="shout")).run("hello")
        assert result.success and result.output == "HELLO"
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    run_id: str = ""
    status: RunStatus = "completed"
    """How the run ended."""
    output: OutT | None = None
    """The output of the last step; `None` unless the run completed."""
    step_history: list[StepResult] = Field(default_factory=list[StepResult])
    """The top-level steps that ran, in order; what ran within a step is in its own `step_history`."""
    total_cost: Decimal = ZERO
    """US dollars, exact: the sum over `step_history`."""
    total_tokens: int = 0
    """Tokens, input and output together: the sum over `step_history`."""
    final_pipeline_context: Any = None
    """The context as the run left it, of the run's context model."""
    waiting: list[Waiting] = Field(default_factory=list[Waiting])
    """The steps that wait for a person; empty unless the run is paused."""
    resume_point: Any = Field(default=None, exclude=True, repr=False)
    """Where a paused run stands; `Flujo.resume` reads it."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def total_cost_usd(self) -> float:
        """US dollars as a float, correctly rounded; `total_cost` is exact."""
        return float(self.total_cost)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def success(self) -> bool:
        """Whether the run completed."""
        return self.status == "completed"

    @property
    def trace_tree(self) -> TraceNode:
        """The run as a tree of steps with status, duration and cost, without their outputs."""
        children = tuple(TraceNode.of(result) for result in self.step_history)
        latency_s = sum(child.latency_s for child in children)
        return TraceNode("run", self.status, 1, latency_s, self.total_cost, self.total_tokens, children)

    def __repr__(self) -> str:
        """Return one line, however long the history is (`asyncio.run` on 3.11 formats its result)."""
        spent = f", cost={format_usd(self.total_cost)}" if self.total_cost else ""
        return f"PipelineResult({self.status}, steps={len(self.step_history)}{spent}, run_id={self.run_id!r})"

    __str__ = __repr__


def told_of_calls(calls: Sequence[MeteredCall]) -> dict[str, Any]:
    """Return what is said of metered calls in `metadata_`: each of them, and how much of their cost is uncertain."""
    uncertain = ZERO
    for call in calls:
        if call.is_uncertain:
            uncertain = add_usd(uncertain, call.cost)
    return {CALLS: list(calls), **({UNCERTAIN: uncertain} if uncertain else {})}


def total_usage(results: Iterable[StepResult]) -> tuple[Decimal, int]:
    """Return the exact dollars and the tokens of several results together."""
    cost, tokens = ZERO, 0
    for result in results:
        if result.cost:
            cost = add_usd(cost, result.cost)
        tokens += result.token_counts
    return cost, tokens
