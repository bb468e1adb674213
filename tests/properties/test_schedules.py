"""Who finishes first does not matter, and the turnstile does decide who that is."""

from hypothesis import given

from tests.properties.building import build
from tests.properties.generator import programs, schedules
from tests.properties.programs import Agent, Parallel, Program
from tests.properties.running import in_world, run, runner_of


@given(programs(), schedules, schedules)
def test_a_run_does_not_depend_on_who_finishes_first(program: Program, some: list[int], others: list[int]) -> None:
    """Output, history, merged context and totals are the same, whatever the schedule and the merge strategy."""
    step = build(program.root)
    again = build(program.root)

    assert run(step, program, some).lines() == run(again, program, others).lines()


def test_the_schedule_decides_who_finishes_first() -> None:
    """Branches that wait come out in the order that the schedule says."""
    branches = tuple((name, Agent(name, waits=1)) for name in ("a", "b", "c"))
    program = Program(Parallel("all", branches))

    async def work() -> None:
        await runner_of(build(program.root), program).run_async(0)

    finished: list[str] = []
    for picks in ([0], [2, 1], [1]):
        _, world = in_world(work(), picks)
        finished.append("".join(event.agent for event in world.events if event.kind == "charge"))
    assert finished == ["abc", "cba", "bca"]
