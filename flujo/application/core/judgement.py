"""Whether an agent's output is good enough: output processors, then plugins, then validators."""

import inspect
import logging
import reprlib
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from flujo.application.core.outcome import describe_error
from flujo.domain.policies import PluginOutcome, ValidationResult, Validator
from flujo.domain.step import AgentStep
from flujo.exceptions import (
    NonRetryableError,
    PausedException,
    PipelineAbortSignal,
    PricingNotConfiguredError,
    RefusedCallError,
    UnboundedCallError,
)

_log = logging.getLogger("flujo.steps")

_SIGNALS = (
    *(NonRetryableError, PausedException, PipelineAbortSignal),
    *(RefusedCallError, UnboundedCallError, PricingNotConfiguredError),
)
"""What a plugin or validator raises to say more than that the output is refused, be it that a model was not asked."""


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
        output = await process(processor, output, context)
    verdict = Verdict(output)
    await _ask_plugins(step, verdict, feedback)
    if verdict.feedback is None:
        await _ask_validators(step, verdict, context)
    return verdict


async def process(processor: Any, data: Any, context: BaseModel) -> Any:
    """Return data as a processor leaves it.

    Raises:
        NonRetryableError: The processor is not async.
    """
    return await _awaitable(f"processor {type(processor).__name__}", "process", processor.process(data, context))


def _awaitable(judge: str, method: str, given: Any) -> Awaitable[Any]:
    if not inspect.isawaitable(given):
        raise NonRetryableError(f"{judge} returned {reprlib.repr(given)} at once; write `async def {method}`")
    return given


async def _ask_plugins(step: AgentStep[Any, Any], verdict: Verdict, feedback: str | None) -> None:
    """Ask the plugins in order of priority until one refuses."""
    for plugin, _ in step.plugins:
        name = type(plugin).__name__
        try:
            given = plugin.validate({"output": verdict.output, "solution": verdict.output, "feedback": feedback})
            outcome = await _awaitable(f"plugin {name}", "validate", given)
            if not isinstance(outcome, PluginOutcome):
                raise NonRetryableError(f"plugin {name} returned {reprlib.repr(outcome)}; return a PluginOutcome")
        except _SIGNALS:
            raise
        except Exception as error:  # a plugin is code of the user's; an output that it fails on is refused
            _log.debug("the plugin %s of step %r raised", name, step.name, exc_info=error)
            outcome = PluginOutcome(success=False, feedback=f"{name}: {describe_error(error)}")
        if not outcome.success:
            verdict.feedback = outcome.feedback or f"{name} refused the output"
            verdict.redirect_to = outcome.redirect_to
            verdict.failed.append(ValidationResult(is_valid=False, feedback=verdict.feedback, validator_name=name))
            return
        if outcome.new_solution is not None:
            verdict.output = outcome.new_solution


async def _ask_validators(step: AgentStep[Any, Any], verdict: Verdict, context: BaseModel) -> None:
    """Ask all validators, so that the next attempt hears everything at once."""
    verdict.validations = [await _ask_validator(validator, verdict.output, context) for validator in step.validators]
    verdict.failed.extend(said for said in verdict.validations if not said.is_valid)
    if verdict.failed:
        verdict.feedback = "; ".join(
            f"{said.validator_name}: {said.feedback or 'refused the output'}" for said in verdict.failed
        )


async def _ask_validator(validator: Validator, output: Any, context: BaseModel) -> ValidationResult:
    name: str = getattr(validator, "name", "") or type(validator).__name__  # a validator need not have a name
    try:
        given = validator.validate(output, context=context)
        said = await _awaitable(f"validator {name}", "validate", given)
        if not isinstance(said, ValidationResult):
            raise NonRetryableError(f"validator {name} returned {reprlib.repr(said)}; return a ValidationResult")
        return said if said.validator_name else said.model_copy(update={"validator_name": name})
    except _SIGNALS:
        raise
    except Exception as error:  # a validator is code of the user's; an output that it fails on is refused
        _log.debug("the validator %s raised", name, exc_info=error)
        return ValidationResult(is_valid=False, feedback=describe_error(error), validator_name=name)
