"""What an agent is given by keyword, and how an answer that reports what it cost is read."""

from dataclasses import dataclass
from typing import Any

import pytest

from flujo import Flujo, Pipeline, Step, TypeMismatchError, validator


@validator
def _long_enough(output: str) -> tuple[bool, str | None]:
    return len(output) > 1, "longer"


async def test_an_agent_that_takes_any_keyword_gets_the_feedback_it_names() -> None:
    """Feedback goes to the argument of that name, also beside `**kwargs`, and the input stays as it is."""
    seen: list[tuple[str, str | None, bool]] = []

    class Writer:
        async def run(self, text: str, *, feedback: str | None = None, **others: Any) -> str:
            seen.append((text, feedback, "context" in others))
            return "a" if feedback is None else "ab"

    result = await Flujo(Step("write", Writer(), validators=[_long_enough])).run_async("go")

    assert result.output == "ab"
    assert seen == [("go", None, True), ("go", "_long_enough: longer", True)]


async def test_usage_that_can_be_read_is_not_called() -> None:
    """Usage that is a value with `total_tokens` is read as it is, even if it can be called as well."""

    class Usage:
        total_tokens = 7

        def __call__(self) -> "Usage":
            raise DeprecationWarning("use it without calling it")

    class Answer:
        output = "fine"
        usage = Usage()

    async def ask(text: str) -> Any:
        return Answer()

    result = await Flujo(Step("ask", ask)).run_async("go")

    assert (result.output, result.total_tokens) == ("fine", 7)


@dataclass
class _Priced:
    output: str
    cost_usd: float


@dataclass
class _Page:
    output: str


class _Counter:
    async def run(self, text: str) -> int:
        return len(text)


class _Bill:
    def __init__(self, output: str, cost_usd: float) -> None:
        self.output = output
        self.cost_usd = cost_usd


@pytest.mark.parametrize("answer", [_Priced, _Bill])
async def test_a_declared_answer_with_a_cost_fits_what_takes_its_output(answer: type[_Priced | _Bill]) -> None:
    """A step gives the `output` of such an answer, so the next one need not take the answer itself."""

    class Writer:
        async def run(self, text: str) -> Any:
            return answer(f"{text}!", cost_usd=0.5)

    Writer.run.__annotations__["return"] = answer | None
    pipeline: Pipeline[Any, Any] = Pipeline(steps=[Step("write", Writer()), Step("count", _Counter())])
    result = await Flujo(pipeline).run_async("go")

    assert (result.output, result.total_cost_usd) == (3, 0.5)


def test_a_declared_answer_without_a_cost_is_the_output() -> None:
    """An `output` alone does not make an answer a cost report, so its type is checked."""

    class Writer:
        async def run(self, text: str) -> _Page:
            return _Page(text)

    pipeline: Pipeline[Any, Any] = Pipeline(steps=[Step("write", Writer()), Step("count", _Counter())])
    with pytest.raises(TypeMismatchError, match="'write' gives _Page, but step 'count' takes str"):
        Flujo(pipeline).run("go")
