"""Step results as JSON, with those of the steps within them, as journals store them.

What is stored can be looked at without the types of the user: only outputs, metadata and feedback are written by
the codec. Of a result that was stored when its step finished, or was read, the same JSON is used again when the step
around it finishes.
"""

from decimal import Decimal
from operator import is_
from typing import Any

from flujo.domain.money import ZERO
from flujo.domain.results import PipelineResult, StepResult
from flujo.utils.codec import Codec

_WITHOUT_STEPS = "output_without_steps"


class StoredResults:
    """Writes and reads the results of one run.

    Args:
        codec: Writes and reads values.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._known: dict[int, tuple[StepResult, dict[str, Any]]] = {}  # by identity, which the result keeps taken

    def know(self, result: StepResult, data: dict[str, Any], at: float) -> None:
        """Remember what a result is written as, and when it was stored, until the step around it is written."""
        data["at"] = at
        self._known[id(result)] = (result, data)

    def write(self, result: StepResult) -> dict[str, Any]:
        """Return a result as JSON.

        Raises:
            SerializationError: It holds a value that would not come back as it is.
        """
        data: dict[str, Any] = {
            "name": result.name,
            "status": result.status,
            "attempts": result.attempts,
            "latency_s": result.latency_s,
        }
        output = result.output
        if _holds_steps_of(result):
            data[_WITHOUT_STEPS] = True  # or else every sub-pipeline would double what is written
            output = output.model_copy(update={"step_history": []})
        data["output"] = self._codec.encode(output, "output")
        if result.cost:
            data["cost"] = str(result.cost)
        if result.token_counts:
            data["tokens"] = result.token_counts
        if result.feedback is not None:
            data["feedback"] = self._codec.encode(result.feedback)
        if result.metadata_:
            data["metadata"] = self._codec.encode(result.metadata_, "metadata_")
        if result.step_history:
            data["steps"] = [self._of_child(child) for child in result.step_history]
        return data

    def read(self, data: dict[str, Any]) -> StepResult:
        """Return the result that was written as JSON."""
        steps = [self.read(child) for child in data["steps"]] if "steps" in data else None
        output = self._codec.decode(data["output"])
        if data.get(_WITHOUT_STEPS):
            output = output.model_copy(update={"step_history": list(steps or ())})
        return StepResult(
            data["name"],
            output,
            status=data["status"],
            attempts=data["attempts"],
            latency_s=data["latency_s"],
            cost=Decimal(data["cost"]) if "cost" in data else ZERO,
            token_counts=data.get("tokens", 0),
            feedback=self._codec.decode(data["feedback"]) if "feedback" in data else None,
            metadata_=self._codec.decode(data["metadata"]) if "metadata" in data else None,
            step_history=steps,
        )

    def _of_child(self, child: StepResult) -> dict[str, Any]:
        _, data = self._known.pop(id(child), (None, None))
        return self.write(child) if data is None else data


def _holds_steps_of(result: StepResult) -> bool:
    """Tell whether the output is a `PipelineResult` with the very steps that the result has."""
    if not isinstance(result.output, PipelineResult):
        return False
    of_output: list[StepResult] = result.output.step_history  # pyright: ignore[reportUnknownMemberType]  # of any type
    steps = result.step_history
    return bool(steps) and len(steps) == len(of_output) and all(map(is_, steps, of_output))
