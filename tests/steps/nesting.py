"""Every kind of step around a step, such that the whole gives what the step gives."""

from collections.abc import Callable
from typing import Any

from flujo import BaseStep, Flujo, Pipeline, RefinementCheck, Step
from tests.steps.workflows import failing, plain

AnyStep = BaseStep[Any, Any]


def _in_pipeline(step: AnyStep) -> AnyStep:
    return plain("before") >> step >> plain("after")


def _in_parallel(step: AnyStep) -> AnyStep:
    parallel = Step.parallel("parallel", {"other": plain("other"), "this": step})
    return parallel >> plain("pick", lambda output: output["this"])


def _in_map(step: AnyStep) -> AnyStep:
    return plain("list", lambda data: [data]) >> Step.map_over("map", step) >> plain("pick", lambda output: output[0])


def _in_loop(step: AnyStep) -> AnyStep:
    return Step.loop_until("loop", step, lambda output, context: True)


def _in_generator(step: AnyStep) -> AnyStep:
    generator = plain("unpack", lambda request: request["original_input"]) >> step
    return Step.refine_until("refine", generator, plain("critic", lambda draft: RefinementCheck(is_complete=True)))


def _in_branch(step: AnyStep) -> AnyStep:
    return Step.branch_on("branch", lambda data, context: "this", {"this": step, "other": failing("other")})


def _in_default(step: AnyStep) -> AnyStep:
    return Step.branch_on("branch", lambda data, context: "this", {"other": failing("other")}, step)


def _in_router(step: AnyStep) -> AnyStep:
    def route(data: Any) -> str:
        return "this"

    routed = Step.dynamic_parallel_branch("router", route, {"this": step, "other": failing("other")})
    return routed >> plain("pick", lambda output: output["this"])


def _in_sub_pipeline(step: AnyStep) -> AnyStep:
    return Pipeline.from_step(step).as_step("sub") >> plain("unpack", lambda result: result.output)


def _behind_wall(step: AnyStep) -> AnyStep:
    wall = Pipeline.from_step(step).as_step("sub", inherit_context=False)
    return wall >> plain("unpack", lambda result: result.output)


def _in_runner(step: AnyStep) -> AnyStep:
    return Flujo(step).as_step("runner") >> plain("unpack", lambda result: result.output)


def _in_fallback(step: AnyStep) -> AnyStep:
    def fail(data: Any) -> Any:
        raise ValueError("primary")

    return plain("primary", fail).fallback(step)


AROUND: dict[str, Callable[[AnyStep], AnyStep]] = {
    "pipeline": _in_pipeline,
    "parallel": _in_parallel,
    "map": _in_map,
    "loop": _in_loop,
    "generator": _in_generator,
    "branch": _in_branch,
    "default": _in_default,
    "router": _in_router,
    "cached": Step.cached,
    "sub-pipeline": _in_sub_pipeline,
    "wall": _behind_wall,
    "runner": _in_runner,
    "fallback": _in_fallback,
}
"""By kind, what puts a step inside it; each call declares new steps."""
