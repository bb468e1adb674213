"""Usage adds up and the history is complete, at every node of the tree, counted from outside flujo."""

from collections import Counter
from fractions import Fraction

from hypothesis import given

from tests.properties.building import build
from tests.properties.generator import programs, schedules
from tests.properties.model import every
from tests.properties.programs import Agent, Program, walk
from tests.properties.running import run


@given(programs(), schedules)
def test_every_step_costs_what_its_children_cost(program: Program, picks: list[int]) -> None:
    """A composite's cost and tokens are the exact sums over its children, and the run's are those over its steps."""
    report = run(build(program.root), program, picks)

    composites = [trace for trace in every(report.history) if trace.children]
    assert [trace.cost for trace in composites] == [
        sum((child.cost for child in trace.children), Fraction(0)) for trace in composites
    ]
    assert [trace.tokens for trace in composites] == [
        sum(child.tokens for child in trace.children) for trace in composites
    ]
    assert report.cost == sum((trace.cost for trace in report.history), Fraction(0))
    assert report.tokens == sum(trace.tokens for trace in report.history)


@given(programs(), schedules)
def test_a_run_costs_what_its_agents_were_paid(program: Program, picks: list[int]) -> None:
    """The run's totals are what was counted outside, failed attempts and failed branches included."""
    report = run(build(program.root), program, picks)

    assert report.cost == sum((call.cost * times for call, times in report.calls.items()), Fraction(0))
    assert report.tokens == sum(call.tokens * times for call, times in report.calls.items())


@given(programs(), schedules)
def test_every_call_is_in_the_history_once(program: Program, picks: list[int]) -> None:
    """The attempts of an agent's results are the calls of the agent, and what was not called is a cache hit."""
    report = run(build(program.root), program, picks)

    agents = {node.name for node in walk(program.root) if isinstance(node, Agent)}
    leaves = [trace for trace in every(report.history) if not trace.children and trace.name in agents]
    attempts, calls = Counter[str](), Counter[str]()
    for trace in leaves:
        attempts[trace.name] += trace.attempts
    for call, times in report.calls.items():
        calls[call.agent] += times
    assert +attempts == +calls
    assert all(trace.attempts or trace.notes["cache_hit"] for trace in leaves)


@given(programs(), schedules)
def test_a_failure_names_the_step_that_failed(program: Program, picks: list[int]) -> None:
    """A failed step says why, and one that failed because of a child names the child; a success has no feedback."""
    report = run(build(program.root), program, picks)

    for trace in every(report.history):
        failed = [child for child in trace.children if not child.completed]
        if trace.completed:
            assert trace.feedback is None
        elif failed:
            assert all(f"{child.name!r}: {child.feedback}" in str(trace.feedback) for child in failed[-1:])
        else:
            assert trace.feedback
