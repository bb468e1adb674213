"""Iterating over a run gives the chunks of its last step, and then what awaiting it gives."""

from typing import Any

from hypothesis import given

from flujo import PipelineResult
from tests.properties.building import build
from tests.properties.generator import programs, schedules
from tests.properties.model import Model
from tests.properties.programs import Agent, Node, Program, Seq
from tests.properties.running import in_world, report_of, runner_of


@given(programs(), schedules)
def test_iterating_comes_to_what_awaiting_does(program: Program, picks: list[int]) -> None:
    """The last item, and only it, is the result; the chunks of a last step that streams are its output."""
    runner = runner_of(build(program.root), program)

    async def work() -> tuple[list[Any], PipelineResult[Any]]:
        *chunks, result = [item async for item in runner.run_async(program.data)]
        return chunks, result

    (chunks, result), world = in_world(work(), picks)

    assert not any(type(chunk) is type(result) for chunk in chunks)
    last = _last(program.root)
    if isinstance(last, Agent) and result.success and not last.failures and not last.refusals:
        streams = last.style in ("stream", "both")
        assert "".join(chunks) == (result.output if streams else "")
    if not (isinstance(last, Agent) and last.failures and last.style == "both"):
        assert report_of(result, world).lines() == Model().run(program).lines()


def _last(node: Node) -> Node:
    """Return the step whose chunks are handed out, as far as it is in plain order."""
    return _last(node.steps[-1]) if isinstance(node, Seq) else node
