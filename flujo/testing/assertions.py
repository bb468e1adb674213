"""Assertions about results, with messages that show what there was instead.

They raise by themselves, because `assert` means nothing under `python -O`.
"""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from flujo.application.runner import Flujo
from flujo.domain.results import PipelineResult, StepResult

InT = TypeVar("InT")
OutT = TypeVar("OutT")


async def gather_result(runner: Flujo[InT, OutT], data: InT, **options: Any) -> PipelineResult[OutT]:
    """Run to the end, chunks and all, and return the result.

    Args:
        runner: Runs.
        data: Its input.
        options: Keyword arguments of `Flujo.run_async`.
    """
    items = [item async for item in runner.run_async(data, **options)]
    return items[-1]  # type: ignore[no-any-return]  # a run ends with its PipelineResult


def assert_pipeline_result(result: PipelineResult[Any], expected_output: Any = None) -> None:
    """Assert that a run completed, and with this output if one is given."""
    if not result.success:
        raise AssertionError(f"the run {result.status}: {_why(result)}")
    if expected_output is not None and result.output != expected_output:
        raise AssertionError(f"the output is {result.output!r}, not {expected_output!r}")


def assert_context_updated(result: PipelineResult[Any], **fields: Any) -> None:
    """Assert that the final context has these values."""
    context = result.final_pipeline_context
    for name, expected in fields.items():
        if not hasattr(context, name):
            raise AssertionError(f"the context has no field {name!r}")
        actual = getattr(context, name)
        if actual != expected:
            raise AssertionError(f"the context field {name!r} is {actual!r}, not {expected!r}")


def assert_validator_failed(result: PipelineResult[Any], validator_name: str, feedback_part: str | None = None) -> None:
    """Assert that a validator refused the output of some step, at any depth, and with this in its feedback if given.

    Steps that failed count, and steps with `strict=False` that passed what was refused.
    """
    said = [feedback for step in _walk(result.step_history) for feedback in _refusals(step)]
    named = [feedback for feedback in said if re.search(rf"\b{re.escape(validator_name)}: ", feedback)]
    if not named:
        raise AssertionError(f"no step failed on the validator {validator_name!r}; feedback was: {said}")
    if feedback_part is not None and not any(feedback_part in feedback for feedback in named):
        raise AssertionError(f"the feedback of {validator_name!r} lacks {feedback_part!r}: {named}")


def _refusals(step: StepResult) -> Iterator[str]:
    if step.feedback and not step.success:
        yield step.feedback
    for refused in step.metadata_.get("failed_validations", ()):
        yield f"{refused.validator_name}: {refused.feedback}"


def _walk(results: list[StepResult]) -> Iterator[StepResult]:
    for result in results:
        yield result
        yield from _walk(result.step_history)


def _why(result: PipelineResult[Any]) -> str | None:
    return result.step_history[-1].feedback if result.step_history else "no step ran"
