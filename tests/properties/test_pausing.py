"""People answer in any order and at any time, and the run comes to what it comes to when agents give their answers."""

from typing import Any

from hypothesis import given

from flujo import HumanInteraction, PipelineResult, UsageLimits
from tests.properties.building import build
from tests.properties.generator import Kinds, programs, schedules
from tests.properties.ledger import dollars, exact_limits
from tests.properties.model import Model
from tests.properties.programs import Program, reply, walled
from tests.properties.running import answered, in_world, report_of, run, runner_of
from tests.properties.world import WORLD

_PEOPLE = Kinds(humans=True)


@given(programs(_PEOPLE), schedules, schedules)
def test_a_run_with_people_comes_to_what_it_comes_to_with_agents(
    program: Program, picks: list[int], order: list[int]
) -> None:
    """However often a run pauses, its result and its calls are those of a run that never does."""
    expected = Model().run(program)

    (result, _), world = in_world(answered(runner_of(build(program.root), program), program, order), picks)

    assert report_of(result, world).lines() == expected.lines()
    assert run(build(program.root, people=False), program, picks).lines() == expected.lines()


@given(programs(_PEOPLE), schedules, schedules)
def test_limits_count_what_was_spent_before_a_pause(program: Program, picks: list[int], order: list[int]) -> None:
    """With each limit exactly at what is spent below it before and after the pauses, a run with people completes."""
    expected = Model().run(program)
    limits = exact_limits(program.root, expected.history)
    whole = UsageLimits(total_cost_usd_limit=dollars(expected.cost), total_tokens_limit=expected.tokens)
    runner = runner_of(build(program.root, limits), program, usage_limits=whole)

    (result, _), world = in_world(answered(runner, program, order), picks)

    assert report_of(result, world).lines() == expected.lines()


@given(programs(_PEOPLE), schedules)
def test_every_answer_is_remembered(program: Program, order: list[int]) -> None:
    """The context keeps what people were asked and what they answered; while it waits, it says so."""
    (result, asked), _ = in_world(answered(runner_of(build(program.root), program), program, order))

    context: Any = result.final_pipeline_context
    remembered: list[HumanInteraction] = context.hitl_history
    heard = [question.message for question in asked if question.step_name not in walled(program.root)]
    assert [(answer.message_to_human, answer.human_response) for answer in remembered] == [
        (message, reply(message)) for message in heard
    ]
    assert {"status", "pause_message"} & set(context.scratchpad) == set()


@given(programs(Kinds(humans=True, caches=False)), schedules)
def test_a_paused_result_may_be_resumed_again(program: Program, order: list[int]) -> None:
    """Resuming does not change the result it resumes: a second time comes to the same."""
    runner = runner_of(build(program.root), program)

    async def work() -> list[str]:
        different: list[str] = []
        result = await runner.run_async(program.data)
        while result.status == "paused":
            question = result.waiting[order[0] % len(result.waiting)]
            before = _lines(result)
            resumed = await runner.resume_async(result, reply(question.message), path=question.path)
            again = await runner.resume_async(result, reply(question.message), path=question.path)
            different += [f"changed: {line}" for line in _lines(result) if line not in before]
            different += [f"not the same: {line}" for line in _lines(again) if line not in _lines(resumed)]
            result = resumed
        return different

    different, _ = in_world(work())

    assert different == []


def _lines(result: PipelineResult[Any]) -> list[str]:
    """Return a result as text, without the calls."""
    report = report_of(result, WORLD.get())
    report.calls.clear()
    return report.lines()
