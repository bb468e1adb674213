"""A stored run that is interrupted anywhere, again and again, comes to what one comes to that never is."""

from collections import Counter
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from tests.properties.building import build
from tests.properties.crashing import (
    FaultyStore,
    History,
    Interruption,
    check_costs,
    crashes,
    interruptions,
    live_through,
    settled,
    steady,
    told,
)
from tests.properties.generator import Kinds, programs, schedules
from tests.properties.model import Model, Report
from tests.properties.programs import Agent, Program, Seq
from tests.properties.running import in_world, run

_PEOPLE = Kinds(humans=True, caches=False)


def _lived(
    program: Program, picks: list[int], ends: list[Interruption], order: list[int], waits: int, tokens: int
) -> History:
    history, _ = in_world(live_through(program, FaultyStore(waits=waits), ends, order, tokens), picks)
    return history


@given(programs(_PEOPLE), schedules, schedules, st.integers(0, 2))
def test_a_store_changes_nothing(program: Program, picks: list[int], order: list[int], waits: int) -> None:
    """Without interruptions a stored run, built anew after each pause, makes the calls of one without a store."""
    plain = run(build(program.root, people=False), program)

    history = _lived(program, picks, [], order, waits, plain.tokens)

    assert history.report().lines() == plain.lines()


def _check(history: History, expected: Report, plain: Report, program: Program) -> None:
    """Assert that a run came to what it had to, and called nothing again that it did not have to."""
    report, answering = history.report(), settled(program.root)
    interrupted = sum(end is not None for end in history.ended_early)
    assert (report.status, report.output, report.context) == (expected.status, expected.output, expected.context)
    assert told(report.history) == told(plain.history)
    for trace, usual in zip(report.history, expected.history, strict=True):
        check_costs(trace, usual, interrupted + 1)
    (cost, tokens), (uncertain_cost, uncertain_tokens) = history.spent, history.uncertain
    assert cost - uncertain_cost <= report.cost <= cost
    assert tokens - uncertain_tokens <= report.tokens <= tokens
    assert expected.calls <= report.calls
    for life, end in zip(history.lives, history.ended_early, strict=True):
        assert life.lost(answering) <= (life.in_flight if end is not None else Counter())


_FAILS = Agent("fails", failures=1, failure_cost=Decimal("0.01"))


@example(Program(Seq("outer", (Seq("inner", (_FAILS,)),))), [0], [0], [Interruption("crash", 3)], 0)
@given(programs(_PEOPLE), schedules, schedules, st.lists(crashes, min_size=1, max_size=4), st.integers(0, 2))
def test_a_run_that_crashes_comes_to_the_same(
    program: Program, picks: list[int], order: list[int], ends: list[Interruption], waits: int
) -> None:
    """Deaths before and after any write change neither result nor context, and only calls in flight are repeated."""
    program = steady(program)
    expected, plain = Model().run(program), run(build(program.root, people=False), program)

    history = _lived(program, picks, ends, order, waits, expected.tokens)

    _check(history, expected, plain, program)


@given(programs(_PEOPLE), schedules, schedules, st.lists(interruptions, min_size=1, max_size=4), st.integers(0, 2))
def test_a_run_that_is_interrupted_comes_to_the_same(
    program: Program, picks: list[int], order: list[int], ends: list[Interruption], waits: int
) -> None:
    """The same holds for cancellations at any await, aborts and limits that were too small."""
    program = steady(program)
    expected, plain = Model().run(program), run(build(program.root, people=False), program)

    history = _lived(program, picks, ends, order, waits, expected.tokens)

    _check(history, expected, plain, program)
