"""Waiting for a person: the declaration and the handler."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import PydanticSchemaGenerationError, TypeAdapter

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.pausing import take_answer, wait_for_person
from flujo.application.core.state_manager import Question
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.pipeline import BaseStep
from flujo.domain.results import StepResult
from flujo.exceptions import ConfigurationError

OutT = TypeVar("OutT", covariant=True)


class HumanInTheLoopStep(BaseStep[Any, OutT]):
    """Pauses the run until a person answers; the answer is the step's output.

    Attributes:
        message_for_user: What the person is asked; `None` asks with the step's input as text.
        input_schema: The type an answer has to fit, such as a pydantic model; `None` for any.
    """

    def __init__(
        self, name: str, *, message_for_user: str | None = None, input_schema: type[OutT] | None = None
    ) -> None:
        super().__init__(name)
        if input_schema is not None:
            _check_schema(name, input_schema)
        self.message_for_user = message_for_user
        self.input_schema = input_schema
        self.output_type = Any if input_schema is None else input_schema

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return nothing: a person is asked."""
        return Ceiling.free("waits for a person")


def _check_schema(name: str, input_schema: Any) -> None:
    """Refuse what no answer could be validated against, before anybody is asked."""
    try:
        TypeAdapter(input_schema)
    except PydanticSchemaGenerationError as error:
        raise ConfigurationError(
            f"step {name!r}: input_schema is {input_schema!r}, which pydantic cannot validate; "
            "give a pydantic model, a dataclass or a built-in type"
        ) from error


@ExecutorCore.handles(HumanInTheLoopStep)
async def _handle_hitl_step(
    core: ExecutorCore, step: HumanInTheLoopStep[Any], frame: ExecutionFrame[Any]
) -> StepResult:
    if (answered := take_answer(frame, step.input_schema)) is not None:
        return answered
    message = str(frame.data) if step.message_for_user is None else step.message_for_user
    return wait_for_person(frame, Question(message), step.input_schema)
