"""Prompts as templates: what they see, what they refuse, and that a run that goes on makes the same ones."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import (
    ConfigurationError,
    Flujo,
    InMemoryBackend,
    InMemoryCache,
    Pipeline,
    PipelineContext,
    PromptTemplate,
    Step,
    ValidationResult,
)
from flujo.testing import StubAgent


class _Context(PipelineContext):
    language: str = "French"


class _City(BaseModel):
    name: str
    inhabitants: int


@dataclass
class _River:
    name: str


async def _echo(prompt: str) -> str:
    return prompt


def _echoing(name: str, prompt: str | PromptTemplate, **options: Any) -> Step[Any, Any]:
    return Step(name, _echo, prompt=prompt, **options)


async def _rendered(template: str, data: Any, context_model: type[BaseModel] | None = None) -> Any:
    result = await Flujo(_echoing("ask", template), context_model=context_model).run_async(data)
    return result.output if result.success else result.step_history[0].feedback


@pytest.mark.parametrize(
    ("template", "data", "prompt"),
    [
        ("Name a river.", None, "Name a river."),
        ("{{ input }}!", "Rhine", "Rhine!"),
        ("{{ input }}", 5, "5"),
        ("{{ input }}", True, "true"),
        ("{{ input }}", None, "null"),
        ("{{ input.name }}: {{ input }}", _City(name="Bonn", inhabitants=3), 'Bonn: {"name":"Bonn","inhabitants":3}'),
        ("{{ input.name }} {{ input }}", _River("Elbe"), 'Elbe {"name":"Elbe"}'),
        ("{{ input.a.b[0] }}", {"a": {"b": [7]}}, "7"),
        ("{% for each in input %}- {{ each | upper }}\n{% endfor %}", ["a", "b"], "- A\n- B\n"),
        ("{{ input.upper() }} {{ ', '.join(['a', 'b']) }}", "x", "X a, b"),
        ("{{ input | length }} <b>{{ input }}</b>\n", "a&b", "3 <b>a&b</b>\n"),
    ],
)
async def test_a_template_makes_the_prompt(template: str, data: Any, prompt: str) -> None:
    """Text and numbers as they are, everything else as JSON."""
    assert await _rendered(template, data) == prompt


async def test_a_template_sees_the_context_and_earlier_outputs() -> None:
    """Of the steps before it, at its own depth and around it; the later one of two of one name."""
    template = "{{ context.language }}: {{ steps.draft }} {{ steps['look up'].a }} {{ steps.inner }}"
    inner = _echoing("inner", "I({{ steps.draft }})") >> _echoing("last", template)
    looked_up = Step.parallel("look up", {"a": _echoing("a", "A({{ steps.draft }})")})
    pipeline = (
        _echoing("draft", "old")
        >> _echoing("draft", "D({{ input }})")
        >> looked_up
        >> Step.loop_until("loop", inner, lambda output, context: True)
    )

    result = await Flujo(pipeline, context_model=_Context).run_async("x")

    given: Any = result.output
    assert given == "French: D(old) A(D(old)) I(D(old))"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ inputs }}", "'inputs' is undefined; it knows input, context and steps, and these steps: 'first'"),
        ("{{ steps.draft }}", "has no attribute 'draft'; it knows"),
        ("{{ context.colour }}", "has no attribute 'colour'"),
        ("{{ ''.__class__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ context.model_copy() }}", "is not safely callable"),
        ("{{ input.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ 'x' * 5000000 }}", "a template may use '*' for the product of numbers only"),
        ("{{ 9 ** 99 }}", "a template may use '**' for"),
        ("{% for i in range(90000) %}{{ 'x' | center(1000) }}{% endfor %}", "would have more than 4000000 characters"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
async def test_what_cannot_be_rendered_fails_the_step_before_it_costs_anything(template: str, message: str) -> None:
    """The feedback says what is wrong, and what there is."""
    agent = StubAgent(["never"])
    pipeline = Step("first", StubAgent([[0]])) >> Step("ask", agent, prompt=template, max_retries=3)

    result = await Flujo(pipeline).run_async("x")

    assert result.status == "failed"
    assert message in (result.step_history[1].feedback or "")
    assert (agent.call_count, result.step_history[1].attempts) == (0, 0)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("fine\n{{ input", "the prompt template is wrong in line 2: "),
        ("{% for %}", "the prompt template is wrong in line 1: "),
        ("{{ input | shout }}", "wrong in line 1: No filter named 'shout'"),
    ],
)
def test_a_wrong_template_is_refused_where_it_is_written(template: str, message: str) -> None:
    """With its line."""
    with pytest.raises(ConfigurationError, match=message.replace("|", r"\|")):
        PromptTemplate(template)


async def test_feedback_reaches_the_next_attempt_below_the_prompt() -> None:
    """As it does below any input that is text."""
    agent = StubAgent(["bad", "good"])

    class Judge:
        name = "judge"

        async def validate(self, output: Any, context: Any = None) -> Any:
            return ValidationResult(is_valid=output == "good", feedback="not good", validator_name="judge")

    step = Step("ask", agent, prompt="Say {{ input }}.", validators=[Judge()], max_retries=1)
    result = await Flujo(step).run_async("good")

    assert result.output == "good"
    assert agent.inputs[0] == "Say good."
    assert agent.inputs[1].startswith("Say good.")
    assert "not good" in agent.inputs[1]


async def test_a_run_that_goes_on_makes_the_same_prompts() -> None:
    """Outputs of steps that finished before a crash are there."""

    class KilledError(BaseException):
        pass

    agent = StubAgent([KilledError(), "done"])
    pipeline = (
        Step("draft", StubAgent(["once"])) >> Step("note", _echo) >> Step("ask", agent, prompt="{{ steps.draft }}")
    )
    runner = Flujo(pipeline, state_backend=InMemoryBackend())
    with pytest.raises(KilledError):
        await runner.run_async("x", run_id="run")

    result = await runner.run_async("x", run_id="run")

    assert (result.output, agent.inputs) == ("done", ["once", "once"])


async def test_a_cached_step_sees_only_the_steps_within_it() -> None:
    """What others gave is no part of its key; a changed template makes another key."""
    cache = InMemoryCache()

    async def run(template: str) -> Any:
        inner: Pipeline[Any, Any] = _echoing("inside", "in") >> _echoing("ask", template)
        cached: Any = Step.cached(inner, cache)
        return (await Flujo(_echoing("outside", "out") >> cached).run_async("x")).step_history[1]

    assert "'inside'" in ((await run("{{ steps.outside }}")).feedback or "")
    first, again, other = await run("{{ steps.inside }}"), await run("{{ steps.inside }}"), await run("{{ input }}.")
    assert [result.metadata_["cache_hit"] for result in (first, again, other)] == [False, True, False]
    assert [result.output for result in (first, again, other)] == ["in", "in", "in."]


async def test_a_wall_keeps_outputs_out() -> None:
    """A sub-pipeline behind one sees its own steps only."""
    inner = Pipeline.from_step(_echoing("ask", "{{ steps.outside }}"))
    outer: Any = _echoing("outside", "out")

    seen = await Flujo(outer >> inner.as_step("open")).run_async("x")
    hidden = await Flujo(outer >> inner.as_step("walled", inherit_context=False)).run_async("x")

    within: Any = seen.output
    assert (within.output, hidden.status) == ("out", "failed")
