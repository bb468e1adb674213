"""What an agent is given by keyword, and how the usage that a provider reports is read."""

from typing import Any

from flujo import Flujo, Step, validator


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
