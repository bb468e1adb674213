"""Assertions pass on what they name, and say what there was instead."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flujo import Flujo, PipelineContext, PipelineResult, Step, step, validator
from flujo.testing import (
    StubAgent,
    assert_context_updated,
    assert_pipeline_result,
    assert_validator_failed,
)


class Article(PipelineContext):
    title: str = ""
    words: int = 0


@step(updates_context=True)
async def _name_it(text: str) -> dict[str, Any]:
    return {"title": text, "words": len(text)}


@validator
def polite(output: str) -> tuple[bool, str | None]:
    """Ask for politeness."""
    return "please" in output, "say please"


@validator
def short(output: str) -> tuple[bool, str | None]:
    """Ask for brevity."""
    return len(output) < 5, "at most 4 characters"


def _ask(output: str, **options: Any) -> PipelineResult[Any]:
    ask = Step("ask", StubAgent([output]), validators=[polite, short], max_retries=0, **options)
    give_up = Step("give up", StubAgent([OSError("nobody")]), max_retries=0)
    return Flujo(ask.fallback(give_up)).run("go")


_DONE = Flujo(_name_it, context_model=Article).run("Rivers")
_REFUSED = _ask("now, now!")
_TOLERATED = _ask("now, now!", strict=False)
_NESTED = Flujo(
    Step.loop_until("loop", Step("ask", StubAgent(["now"]), validators=[polite], max_retries=0), lambda out, ctx: True)
).run("go")


@pytest.mark.parametrize(
    "check",
    [
        lambda: assert_pipeline_result(_DONE),
        lambda: assert_pipeline_result(_DONE, {"title": "Rivers", "words": 6}),
        lambda: assert_context_updated(_DONE),
        lambda: assert_context_updated(_DONE, title="Rivers", words=6),
        lambda: assert_validator_failed(_REFUSED, "polite"),
        lambda: assert_validator_failed(_REFUSED, "short", "at most 4"),
        lambda: assert_validator_failed(_TOLERATED, "polite", "say please"),
        lambda: assert_validator_failed(_NESTED, "polite", "say please"),
    ],
)
def test_an_assertion_that_holds_passes(check: Callable[[], None]) -> None:
    """What is so may be asserted."""
    check()


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: assert_pipeline_result(_REFUSED), "the run failed: .*polite: say please"),
        (lambda: assert_pipeline_result(_DONE, "Lakes"), "the output is {'title': 'Rivers', 'words': 6}, not 'Lakes'"),
        (lambda: assert_pipeline_result(PipelineResult(status="aborted")), "the run aborted: no step ran"),
        (lambda: assert_context_updated(_DONE, title="Lakes"), "field 'title' is 'Rivers', not 'Lakes'"),
        (lambda: assert_context_updated(_DONE, titel="Rivers"), "no field 'titel'"),
        (lambda: assert_context_updated(PipelineResult(), title="a"), "no field 'title'"),
        (lambda: assert_validator_failed(_DONE, "polite"), "no step failed on the validator 'polite'"),
        (lambda: assert_validator_failed(_REFUSED, "poli"), "'poli'; feedback was: .*say please"),
        (lambda: assert_validator_failed(_REFUSED, "long"), "no step failed on the validator 'long'"),
        (lambda: assert_validator_failed(_REFUSED, "polite", "say thanks"), "'polite' lacks 'say thanks'"),
    ],
)
def test_an_assertion_that_does_not_hold_says_what_there_was(check: Callable[[], None], said: str) -> None:
    """The message has what was asserted and what there was."""
    with pytest.raises(AssertionError, match=said):
        check()


_OPTIMIZED = """
from flujo import Flujo, Step
from flujo.testing import StubAgent, assert_context_updated, assert_pipeline_result, assert_validator_failed

result = Flujo(Step("ask", StubAgent([OSError("down")]), max_retries=0)).run("go")
checks = (
    lambda: assert_pipeline_result(result),
    lambda: assert_context_updated(result, initial_prompt="stop"),
    lambda: assert_validator_failed(result, "polite"),
)
for check in checks:
    try:
        check()
    except AssertionError as error:
        print(error)
"""


def test_assertions_hold_in_optimized_code() -> None:
    """Under `python -O`, where `assert` is left out, they fail as ever."""
    ended = subprocess.run([sys.executable, "-O", "-c", _OPTIMIZED], capture_output=True, text=True, check=True)

    assert [line.split(";")[0] for line in ended.stdout.splitlines()] == [
        "the run failed: OSError: down",
        "the context field 'initial_prompt' is 'go', not 'stop'",
        "no step failed on the validator 'polite'",
    ]
