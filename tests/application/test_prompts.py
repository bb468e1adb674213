"""Prompts as templates: what they see, what they refuse, and that a run that goes on makes the same ones."""

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from io import StringIO
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from flujo import (
    AgentProcessors,
    ConfigurationError,
    Flujo,
    InMemoryBackend,
    InMemoryCache,
    NonRetryableError,
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


class _Colour(str, Enum):  # noqa: UP042 - which prints as its name
    RED = "red"


class _Holder(PipelineContext):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    held: Any = None

    @property
    def broken(self) -> str:
        raise KeyError("nothing in it")


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
        ("{{ input.upper() }} {{ ', '.join(['a', 'b']) }} {{ '{}!'.format(input) }}", "x", "X a, b x!"),
        ("{{ input }}", Decimal("1.50"), "1.50"),
        ("{{ input }}", date(2026, 1, 2), "2026-01-02"),
        ("{{ input }} {{ [input] }}", _Colour.RED, 'red ["red"]'),
        ("{{ input | tojson }}", {"a": "<&>"}, '{"a":"<&>"}'),
        ("{% for each in input %}{{ loop.cycle('-', '+') }}{{ each }}{% endfor %}", [1, 2], "-1+2"),
        ("{% set sep = joiner(', ') %}{% for each in input %}{{ sep() }}{{ each }}{% endfor %}", [1, 2], "1, 2"),
        ("{% macro item(it) %}<{{ it }}>{% endmacro %}{{ item(input) }}{{ '-' * 3 }}", "a", "<a>---"),
        ("{{ input.gone | default('none') }}", {}, "none"),
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
        ("a\nb {{ inputs }}", "in line 2: there is no 'inputs'; a prompt knows input, context and steps"),
        ("{{ steps.draft }}", "in line 1: no step before this one is called 'draft'; there is 'first'"),
        ("{{ context.colour }}", "PipelineContext has no 'colour'; it has 'run_id', 'initial_prompt', "),
        ("{{ steps.first[1] }}", "a list has no item 1; it has 1"),
        ("{{ {'a': 1}.b }}", "a dict has no 'b'; it has 'a'"),
        ("{{ {}.items }}", "dict.items is a function; write ['items'] for a key of that name"),
        ("{{ 'a' + 1 }}", "in line 1: can only concatenate str"),
        ("{{ ''.__class__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ '{0.__class__}'.format(1) }}", "access to attribute '__class__' of 'int' object is unsafe"),
        ("{{ lipsum() }}", "there is no 'lipsum'"),
        ("{{ context.model_copy() }}", "is not safely callable"),
        ("{{ input.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ 'x' * 5000000 }}", "'*' would make something of more than 4000000 parts"),
        ("{{ 9 ** 99 }}", "a template may not use '**'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth"),
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
        ("{{ [1] | random }}", "wrong in line 1: No filter named 'random'"),
        ("\n{% include 'other' %}", "wrong in line 2: it uses another template"),
    ],
)
def test_a_wrong_template_is_refused_where_it_is_written(template: str, message: str) -> None:
    """With its line."""
    with pytest.raises(ConfigurationError, match=message.replace("|", r"\|")):
        PromptTemplate(template)


def test_a_template_is_text() -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match="a prompt template is text, not 5"):
        PromptTemplate(5)  # type: ignore[arg-type]  # it is the mistake


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ context.held.write('x') }}", "is not safely callable"),
        ("{{ context.held.close() }}", "is not safely callable"),
        ("{{ context.broken }}", "the prompt cannot be rendered in line 1: 'nothing in it'"),
    ],
)
def test_a_template_calls_nothing_that_the_program_has(template: str, message: str) -> None:
    """Be it written in C; what a property raises is said with its line."""
    held = StringIO("kept")

    with pytest.raises(NonRetryableError, match=re.escape(message)):
        PromptTemplate(template).render(None, _Holder(initial_prompt="", held=held), {})

    assert held.getvalue() == "kept"


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


class _Noting(PipelineContext):
    notes: list[str] = Field(default_factory=list)


async def test_an_attempt_after_a_crash_has_the_prompt_it_would_have_had() -> None:
    """What the attempts before it left in the context is in its prompt, killed or not."""

    class KilledError(BaseException):
        pass

    class Judge:
        name = "judge"

        async def validate(self, output: Any, context: Any = None) -> ValidationResult:
            return ValidationResult(is_valid=output == "good", feedback="no", validator_name="judge")

    async def asked(answers: list[Any]) -> list[Any]:
        agent = StubAgent(answers)
        step = Step(
            "ask",
            agent,
            prompt="{{ context.notes }} {{ input }}",
            processors=AgentProcessors(prompt_processors=[_Upper()]),
            validators=[Judge()],
            persist_feedback_to_context="notes",
            max_retries=2,
        )
        runner = Flujo(step, context_model=_Noting, state_backend=InMemoryBackend())
        if KilledError in map(type, answers):
            with pytest.raises(KilledError):
                await runner.run_async("x", run_id="run")
        assert (await runner.run_async("x", run_id="run")).output == "good"
        return agent.inputs

    first, second = await asked(["bad", "good"])
    killed = await asked(["bad", KilledError(), "good"])

    assert (first, second[: len('["judge: no"] X')]) == ("[] X", '["judge: no"] X')
    assert killed == [first, second, second]


class _Upper:
    async def process(self, data: str, context: Any) -> str:
        return data.upper()


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
