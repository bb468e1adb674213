"""A workflow is a value: running it changes neither it nor what it was given."""

import asyncio
import copy
from typing import Any

from hypothesis import given

from flujo import Flujo, PipelineResult, Step
from tests.properties.building import AnyStep, Board, build
from tests.properties.generator import Kinds, programs, schedules
from tests.properties.model import Model
from tests.properties.programs import Program
from tests.properties.running import in_world, report_of, run, runner_of
from tests.properties.world import WORLD, World


@given(programs(), schedules)
def test_a_second_run_is_like_the_first(program: Program, picks: list[int]) -> None:
    """Nothing is remembered between runs, except by cached steps."""
    step, model = build(program.root), Model()
    first, second = model.run(program), model.run(program)

    assert run(step, program, picks).lines() == first.lines()
    assert run(step, program, picks).lines() == second.lines()


@given(programs(Kinds(caches=False)), schedules)
def test_runs_at_once_do_not_meet(program: Program, picks: list[int]) -> None:
    """One runner runs several inputs at once, and each comes to what it comes to alone."""
    inputs = [Program(program.root, program.data + more, program.items) for more in (0, 1, 0)]
    runner = runner_of(build(program.root), program)

    async def one(number: Program, shared: World) -> list[str]:
        world = World(shared.turnstile)
        WORLD.set(world)
        return report_of(await runner.run_async(number.data), world).lines()

    async def work() -> list[list[str]]:
        return await asyncio.gather(*(one(number, WORLD.get()) for number in inputs))

    reports, _ = in_world(work(), picks)

    assert reports == [Model().run(number).lines() for number in inputs]


@given(programs(), schedules)
def test_running_changes_no_step(program: Program, picks: list[int]) -> None:
    """Every attribute of every step is afterwards the object that it was before."""
    step = build(program.root)
    before = _attributes(step)

    run(step, program, picks)

    assert _attributes(step) == before


def _attributes(step: AnyStep) -> list[tuple[str, str, int, str]]:
    """Return the attributes of a step and of the steps within it: their identities, and what is in containers."""
    return [
        (part.name, name, id(value), repr(value) if type(value) in (dict, tuple, list) else "")
        for part in step.walk()
        for name, value in vars(part).items()
    ]


def _dig(data: Any, context: Any) -> Any:
    context.scratchpad["deep"]["er"].append(2)
    return data


@given(programs())
def test_running_changes_nothing_it_was_given(program: Program) -> None:
    """Agents write to the run's own copy of the initial data, and the input stays as it is."""
    given_data: dict[str, Any] = {
        "items": list(program.items),
        "notes": [1, 2],
        "tally": {"x": 1},
        "scratchpad": {"x": 1, "deep": {"er": [1]}},
    }
    given_input = {"question": [program.data]}
    before = copy.deepcopy((given_data, given_input))
    digging = Step.from_callable(_dig) >> build(program.root)
    runner = Flujo(digging, context_model=Board, initial_context_data=given_data)

    async def work() -> PipelineResult[Any]:
        return await runner.run_async(given_input, initial_context_data=given_data)

    in_world(work())

    assert (given_data, given_input) == before
