"""A limit may be met but not passed, at any level; and when it is passed, nothing starts any more."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flujo import PipelineResult, UsageLimitExceededError, UsageLimits
from tests.properties.building import build
from tests.properties.generator import Kinds, programs, schedules
from tests.properties.ledger import Ledger, dearest, dollars, exact_limits
from tests.properties.model import Model, every
from tests.properties.programs import Program, Seq, walk
from tests.properties.running import answered, in_world, report_of, run, runner_of
from tests.properties.world import World

_LEAST = Fraction(1, 10**31)  # less than the last digit of any price


def _run_into_limit(
    program: Program, limits: dict[str, UsageLimits], picks: list[int], **settings: Any
) -> tuple[UsageLimitExceededError, World]:
    """Run a program that has to pass a limit, and return the error and the world; people answer at once."""

    async def work() -> UsageLimitExceededError:
        with pytest.raises(UsageLimitExceededError) as exceeded:
            await answered(runner_of(build(program.root, limits), program, **settings), program, picks)
        return exceeded.value

    return in_world(work(), picks)


@given(programs(), schedules)
def test_a_run_that_meets_every_limit_completes(program: Program, picks: list[int]) -> None:
    """With each limit exactly at what is spent below it, the run comes to what it comes to without limits."""
    expected = Model().run(program)
    whole = UsageLimits(total_cost_usd_limit=dollars(expected.cost), total_tokens_limit=expected.tokens)

    report = run(build(program.root, exact_limits(program.root, expected.history)), program, picks, usage_limits=whole)

    assert report.lines() == expected.lines()


@given(programs(Kinds(humans=True)), schedules, st.data())
def test_a_step_that_passes_its_limit_stops_the_run(program: Program, picks: list[int], data: st.DataObject) -> None:
    """The smallest amount too little stops a run, pauses or not, and the error has all that was paid for."""
    spent = dearest(program.root, Model().run(program).history)
    names = [name for name, (cost, tokens) in spent.items() if cost or tokens]
    assume(names)
    name = data.draw(st.sampled_from(names))
    cost, tokens = spent[name]
    too_little = (
        UsageLimits(total_cost_usd_limit=dollars(cost - _LEAST))
        if cost and (not tokens or data.draw(st.booleans()))
        else UsageLimits(total_tokens_limit=tokens - 1)
    )

    error, world = _run_into_limit(program, {name: too_little}, picks)

    _assert_complete(error, world)
    assert f"{name!r} passed its limit" in str(error)
    assert any(trace.name == name for trace in every(report_of(error.result, world).history))


@given(programs(Kinds(humans=True)), schedules, st.integers(1, 9))
def test_nothing_starts_after_a_breach(program: Program, picks: list[int], tenths: int) -> None:
    """With limits at every step, nothing begins and nothing is charged once the first of them is passed."""
    expected = Model().run(program)
    assume(expected.tokens)
    seqs = {node.name for node in walk(program.root) if isinstance(node, Seq)}  # hooks are not told of pipelines
    limits = {name: limit for name, limit in exact_limits(program.root, expected.history).items() if name not in seqs}
    whole = UsageLimits(total_tokens_limit=expected.tokens * tenths // 10)
    ledger = Ledger({(): whole})

    error, world = _run_into_limit(program, limits, picks, usage_limits=whole, hooks=[ledger.note])

    breach = ledger.breach(world.events)
    assert breach is not None
    assert {event.kind for event in world.events[breach + 1 :]} <= {"cut"}
    _assert_complete(error, world)
    last = world.events[breach]
    breaking = [t for t in every(report_of(error.result, world).history) if t.name == last.agent and t.attempts]
    assert breaking


def _assert_complete(error: UsageLimitExceededError, world: World) -> None:
    """Assert that an error has everything in its history that was begun, and counts everything that was charged."""
    result: PipelineResult[Any] = error.result
    report = report_of(result, world)
    assert report.status == "stopped"
    assert (report.cost, report.tokens) == world.spent
    attempts = Counter[str]()
    for trace in every(report.history):
        if not trace.children:
            attempts[trace.name] += trace.attempts
            assert trace.attempts or trace.notes.get("cache_hit")
    assert {name: attempts[name] for name in world.begun} == dict(world.begun)
