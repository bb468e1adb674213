"""A run that crashes anywhere goes on as if nothing had happened."""

from typing import Any

import pytest

from flujo import InMemoryBackend, PipelineResult
from flujo.state.ownership import Owner
from flujo.state.records import JournalWrite
from tests.faults.every_kind import ANSWER, PRICE, QUESTIONS, Effects, Notes, runner_of

FAILING = {"bad(3)", "primary(6)"}
"""Effects that fail; what failed did not finish, until it is known that its failure is not the end of the run."""


class Crash(BaseException):
    """The process dies here."""


class CrashingBackend(InMemoryBackend):
    """A store whose process dies before or after one of the writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.dies_at = -1
        self.dies_after = False

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Store a change, and die."""
        self.writes += 1
        if self.writes == self.dies_at and not self.dies_after:
            raise Crash
        await super().write(run_id, owner, change)
        if self.writes == self.dies_at:
            raise Crash


async def _run_all(effects: Effects, backend: CrashingBackend) -> PipelineResult[Any]:
    """Run, answering every question and starting again after every crash."""
    for _ in range(10 * QUESTIONS):
        try:
            result = await runner_of(effects, backend).run_async(1, run_id="run")
            while result.status == "paused":
                first = result.waiting[0].path
                result = await runner_of(effects, backend).resume_async("run", ANSWER, path=first)
            return result
        except Crash:
            continue
    pytest.fail("the run does not come to an end")


def _context(result: PipelineResult[Any]) -> dict[str, Any]:
    assert isinstance(result.final_pipeline_context, Notes)
    return result.final_pipeline_context.model_dump(exclude={"hitl_history"})


async def _reference() -> tuple[PipelineResult[Any], Effects, int]:
    effects, backend = Effects(), CrashingBackend()
    result = await _run_all(effects, backend)
    return result, effects, backend.writes


async def test_an_uninterrupted_durable_run_is_like_one_without_a_store() -> None:
    """The store changes nothing but that people are asked."""
    effects, plain_effects = Effects(), Effects()
    result = await _run_all(effects, CrashingBackend())

    plain = await runner_of(plain_effects, None, asks=False).run_async(1, run_id="run")

    assert plain.status == "completed", plain.step_history[-1].feedback
    assert (result.output, result.total_cost, result.total_tokens) == (
        plain.output,
        plain.total_cost,
        plain.total_tokens,
    )
    assert _context(result) == _context(plain)
    assert effects.done == plain_effects.done
    assert len(result.step_history) == len(plain.step_history)


@pytest.mark.parametrize("dies_after", [False, True], ids=["before a write", "after a write"])
async def test_a_crash_at_any_write_changes_nothing(dies_after: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The result, the context and the total are those of a run without a crash; at most one effect happens again."""
    expected, reference, writes = await _reference()
    for at in range(1, writes + 1):
        effects, backend = Effects(), CrashingBackend()
        backend.dies_at, backend.dies_after = at, dies_after

        result = await _run_all(effects, backend)

        assert result.status == "completed", (at, result.step_history[-1].feedback)
        assert result.output == expected.output, at
        assert _context(result) == _context(expected), at
        repeated = effects.done - reference.done
        assert 0 <= result.total_cost - expected.total_cost <= repeated.total() * PRICE, at
        in_flight = 0 if dies_after else 3  # as many as there are branches at once
        assert sum(effect not in FAILING for effect in repeated.elements()) <= in_flight, (at, repeated)
        assert repeated.total() <= in_flight + 1, (at, repeated)
        assert reference.done - effects.done == {}, at
