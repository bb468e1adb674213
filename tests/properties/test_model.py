"""A run comes to what the reference model says, whatever the workflow and whoever finishes first."""

from hypothesis import given

from tests.properties.building import build
from tests.properties.generator import programs, schedules
from tests.properties.model import Model
from tests.properties.programs import Program
from tests.properties.running import run


@given(programs(), schedules)
def test_a_run_comes_to_what_the_model_says(program: Program, picks: list[int]) -> None:
    """Status, output, history, context, money and calls are those of a plain recursion over the workflow."""
    expected = Model().run(program)

    assert run(build(program.root), program, picks).lines() == expected.lines()
