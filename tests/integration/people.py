"""Steps that wait for a person, and runs that pause."""

from typing import Any

from flujo import BaseStep, Flujo, PipelineContext, PipelineResult, Step


def ask(name: str = "ask", message: str | None = "Ship it?", schema: type[Any] | None = None) -> BaseStep[Any, Any]:
    """Return a step that waits for a person."""
    return Step.human_in_the_loop(name, message, schema)


async def pause(runner: Flujo[Any, Any], data: Any = "draft", **options: Any) -> PipelineResult[Any]:
    """Run until a step waits, and return the paused result."""
    result: PipelineResult[Any] = await runner.run_async(data, **options)
    assert (result.status, result.success, result.output) == ("paused", False, None)
    return result


def context_of(result: PipelineResult[Any]) -> PipelineContext:
    """Return the context that a run left."""
    context = result.final_pipeline_context
    assert isinstance(context, PipelineContext)
    return context
