"""What a workflow is given: its context, its resources, its limits."""

import reprlib
import uuid
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from flujo.domain.money import exact_usd

StepPath = tuple[str, ...]
"""The address of a step in a run, such as `("2", "branch:legal", "0", "iteration:3", "1")`."""


MIN_OUTPUT_TOKENS = 16
"""The fewest output tokens that an answer is worth asking for, if nobody says otherwise."""

_OUTLINE = reprlib.Repr()
_OUTLINE.maxstring = _OUTLINE.maxother = 80
_OUTLINE.maxlevel = 3


def brief(value: object) -> str:
    """Return a value in one line of at most 200 characters, as reprs show the values of users."""
    text = " ".join(_OUTLINE.repr(value).splitlines())
    return text if len(text) <= 200 else text[:197] + "..."


def new_run_id() -> str:
    """Return a fresh identity for a run: 32 hexadecimal digits."""
    return uuid.uuid4().hex


class HumanInteraction(BaseModel):
    """One question to a person and the answer."""

    model_config = ConfigDict(frozen=True)

    message_to_human: str
    """What the person was asked."""
    human_response: Any
    """The answer, as the waiting step's `input_schema` validated it."""
    timestamp: datetime
    """When the answer was accepted, with its time zone."""


class PipelineContext(BaseModel):
    """What the steps of one run share; subclass it to give it fields of your own.

    Assignments are validated, and unknown fields are refused.

    Example:
        ```python
        from flujo import PipelineContext

        class Draft(PipelineContext):
            words: int = 0
        ```
    """

    model_config = ConfigDict(validate_assignment=True, extra="forbid")

    run_id: str = Field(default_factory=new_run_id)
    """The identity of the run."""
    initial_prompt: str
    """The run's input as text: a string as it is, anything else in a readable form of bounded length."""
    scratchpad: dict[str, Any] = Field(default_factory=dict)
    """Free space for the steps. While a run is paused, `status` and `pause_message` say what it waits for."""
    hitl_history: list[HumanInteraction] = Field(default_factory=list[HumanInteraction])
    """Every answer a person gave in this run, oldest first, whatever the merge strategy of the branches."""
    command_log: list[Any] = Field(default_factory=list[Any])
    """Free space for agents that record the commands they ran."""

    def __repr__(self) -> str:
        """Return one line, however much the context holds."""
        held = ", ".join(f"{name}={brief(value)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({held})"

    __str__ = __repr__


class AppResources(BaseModel):
    """Shared clients for the agents of a run; subclass it and add them as fields.

    An instance that is an async context manager is entered once per run and left at its end.

    Example:
        ```python
        from flujo import AppResources, Flujo, step

        class Shop(AppResources):
            prices: dict[str, int]

        @step
        async def price_of(product: str, *, resources: Shop) -> int:
            return resources.prices[product]

        assert Flujo(price_of, resources=Shop(prices={"tea": 3})).run("tea").output == 3
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)


class UsageLimits(BaseModel):
    """What a run, a step or a branch may use; a limit is breached when it is passed, not when it is met.

    Example:
        ```python
        from flujo import UsageLimits

        limits = UsageLimits(total_cost_usd_limit=0.50, total_tokens_limit=100_000)
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    total_cost_usd_limit: Annotated[Decimal, BeforeValidator(exact_usd)] | None = None
    """US dollars, exact (a float is read as the decimal it prints as); `None` for no limit."""
    total_tokens_limit: Annotated[int, Field(ge=0)] | None = None
    """Tokens, input and output together; `None` for no limit."""
    mode: Literal["hard", "after"] = "hard"
    """Whether calls of which it is known what they can cost are reserved before they are made, so that the limit holds
    at every moment, or only what was spent is checked after each step."""
    strict: bool = False
    """Whether steps are refused, before the run begins, of which nobody knows what they can cost."""
    min_output_tokens: Annotated[int, Field(ge=1)] = MIN_OUTPUT_TOKENS
    """The fewest output tokens that an answer is worth asking for when little is left."""

    if TYPE_CHECKING:  # checkers would demand the type that a field has in the end, though a float is welcome

        def __init__(
            self,
            *,
            total_cost_usd_limit: Decimal | float | None = None,
            total_tokens_limit: int | None = None,
            mode: Literal["hard", "after"] = "hard",
            strict: bool = False,
            min_output_tokens: int = MIN_OUTPUT_TOKENS,
        ) -> None: ...


class RefinementCheck(BaseModel):
    """A critic's verdict in `Step.refine_until`.

    Example:
        ```python
        from flujo import Flujo, RefinementCheck, Step, step

        @step
        async def write(request: dict[str, str | None]) -> str:
            return "rivers" if request["feedback"] is None else "Rivers."

        @step
        async def criticise(draft: str) -> RefinementCheck:
            return RefinementCheck(is_complete=draft.endswith("."), feedback="end with a full stop")

        assert Flujo(Step.refine_until("draft", write, criticise)).run("rivers").output == "Rivers."
        ```
    """

    model_config = ConfigDict(extra="forbid")

    is_complete: bool
    """Whether the draft is accepted."""
    feedback: str | None = None
    """What the generator should change; given to it with the next round."""


class MergeStrategy(Enum):
    """How the contexts of branches come back; order is always the order of declaration.

    Only fields that a branch changed count.
    """

    NO_MERGE = "no_merge"
    """Nothing comes back."""
    OVERWRITE = "overwrite"
    """Changed fields come back; the later branch wins."""
    KEEP_FIRST = "keep_first"
    """Changed fields come back; the earlier branch wins."""
    MERGE_SCRATCHPAD = "merge_scratchpad"
    """Only the scratchpad comes back, key by key; a key that two branches set differently fails the step."""
    CONTEXT_UPDATE = "context_update"
    """Changed fields come back, validated: dicts merge key by key, lists get what each branch appended;
    anything else counts as a whole (scalars, lists changed otherwise than by appending), and the later branch wins."""
    ERROR_ON_CONFLICT = "error_on_conflict"
    """Changed fields come back, the scratchpad key by key; two branches that changed one field or one key
    differently fail the step."""


class BranchFailureStrategy(Enum):
    """What a failed branch means for its parallel step or map."""

    PROPAGATE = "propagate"
    """The step fails; the other branches run to their end and their results are kept."""
    IGNORE = "ignore"
    """The step succeeds if any branch does; failed branches appear in the output as their `StepResult`."""
