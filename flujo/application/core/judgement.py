"""Whether an agent's output is good enough: output processors, then plugins, then validators."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from flujo.domain.policies import ValidationResult
from flujo.domain.step import AgentStep


@dataclass(slots=True)
class Verdict:
    """What became of an output.

    Attributes:
        output: The output as processors and plugins left it.
        feedback: What is wrong with it; `None` if it is accepted.
        redirect_to: The agent a plugin asks to try next.
        failed: The validations that failed.
        validations: What every validator said.
    """

    output: Any
    feedback: str | None = None
    redirect_to: Any = None
    failed: list[ValidationResult] = field(default_factory=list[ValidationResult])
    validations: list[ValidationResult] = field(default_factory=list[ValidationResult])


async def judge(step: AgentStep[Any, Any], output: Any, feedback: str | None, context: BaseModel) -> Verdict:
    """Process an output and judge it.

    Args:
        step: Has the processors, plugins and validators.
        output: What the agent gave.
        feedback: What was wrong with the attempt before; plugins get to see it.
        context: Handed to processors and validators.
    """
    for processor in step.processors.output_processors:
        output = await processor.process(output, context)
    verdict = Verdict(output)
    await _ask_plugins(step, verdict, feedback)
    if verdict.feedback is None:
        await _ask_validators(step, verdict, context)
    return verdict


async def _ask_plugins(step: AgentStep[Any, Any], verdict: Verdict, feedback: str | None) -> None:
    """Ask the plugins in order of priority until one refuses."""
    for plugin, _ in step.plugins:
        seen = {"output": verdict.output, "solution": verdict.output, "feedback": feedback}
        outcome = await plugin.validate(seen)
        if not outcome.success:
            name = type(plugin).__name__
            verdict.feedback = outcome.feedback or f"{name} refused the output"
            verdict.redirect_to = outcome.redirect_to
            verdict.failed.append(ValidationResult(is_valid=False, feedback=verdict.feedback, validator_name=name))
            return
        if outcome.new_solution is not None:
            verdict.output = outcome.new_solution


async def _ask_validators(step: AgentStep[Any, Any], verdict: Verdict, context: BaseModel) -> None:
    """Ask all validators, so that the next attempt hears everything at once."""
    for validator in step.validators:
        said = await validator.validate(verdict.output, context=context)
        if not said.validator_name:
            said = said.model_copy(update={"validator_name": validator.name})
        verdict.validations.append(said)
    verdict.failed.extend(said for said in verdict.validations if not said.is_valid)
    if verdict.failed:
        verdict.feedback = "; ".join(
            f"{said.validator_name}: {said.feedback or 'refused the output'}" for said in verdict.failed
        )
