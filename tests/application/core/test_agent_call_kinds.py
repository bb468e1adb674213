"""Everything that may be an agent is called, and gets the keyword arguments that it asks for."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from flujo import (
    AppResources,
    ConfigurationError,
    Flujo,
    MissingAgentError,
    PipelineContext,
    Step,
    StepResult,
    TypeMismatchError,
    UsageLimits,
    validator,
)


class _Runs:
    async def run(self, data: str) -> str:
        return data.upper()


class _RunsPlainly:
    def run(self, data: str) -> str:
        return data.upper()


class _Streams:
    async def stream(self, data: str) -> AsyncIterator[str]:
        for character in data.upper():
            yield character


class _StreamsLater:
    """`stream` is a coroutine function that gives the iterator."""

    async def stream(self, data: str) -> AsyncIterator[str]:
        return _Streams().stream(data)


class _StreamsPlainly:
    def stream(self, data: str) -> Iterator[str]:
        yield from data.upper()


class _RunsWithFlags:
    """Attributes that are called as entry points are, and are none."""

    stream = False
    as_step = None

    async def run(self, data: str) -> str:
        return data.upper()


class _StreamsWithFlags(_Streams):
    run = 5


class _CalledWithFlags:
    run = stream = False

    async def __call__(self, data: str) -> str:
        return data.upper()


class _RunsAsGenerator:
    async def run(self, data: str) -> AsyncIterator[str]:
        for character in data.upper():
            yield character


class _Called:
    async def __call__(self, data: str) -> str:
        return data.upper()


class _CalledAsGenerator:
    async def __call__(self, data: str) -> AsyncIterator[str]:
        for character in data.upper():
            yield character


class _Methods:
    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    async def shout(self, data: str) -> str:
        return data.upper() + self.suffix

    @staticmethod
    async def still(data: str) -> str:
        return data.upper()

    @classmethod
    def named(cls, data: str) -> str:
        return data.upper()


async def _waits(data: str) -> str:
    await asyncio.sleep(0)
    return data.upper()


def _plain(data: str) -> str:
    return data.upper()


async def _generates(data: str) -> AsyncIterator[str]:
    for character in data.upper():
        yield character


def _gives_an_awaitable(data: str) -> Awaitable[str]:
    return _waits(data)


def _gives_a_task(data: str) -> "asyncio.Task[str]":
    return asyncio.get_running_loop().create_task(_waits(data))


def _suffixed(data: str, suffix: str) -> str:
    return data.upper() + suffix


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def _decorated_anew(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(data: Any) -> Any:
        return function(data)

    return wrapper


def _takes_any(*values: str) -> str:
    return values[0].upper()


_UPPER: Callable[[str], str] = lambda data: data.upper()  # noqa: E731  # a lambda is an agent too

_AGENTS: dict[str, tuple[Any, Any]] = {
    "run": (_Runs(), "HI"),
    "plain run": (_RunsPlainly(), "HI"),
    "stream": (_Streams(), "HI"),
    "awaitable stream": (_StreamsLater(), "HI"),
    "plain stream": (_StreamsPlainly(), "HI"),
    "run beside a flag": (_RunsWithFlags(), "HI"),
    "stream beside a flag": (_StreamsWithFlags(), "HI"),
    "callable beside flags": (_CalledWithFlags(), "HI"),
    "run is a generator": (_RunsAsGenerator(), "HI"),
    "callable object": (_Called(), "HI"),
    "callable generator": (_CalledAsGenerator(), "HI"),
    "async function": (_waits, "HI"),
    "plain function": (_plain, "HI"),
    "generator function": (_generates, "HI"),
    "awaitable": (_gives_an_awaitable, "HI"),
    "task": (_gives_a_task, "HI"),
    "bound method": (_Methods("!").shout, "HI!"),
    "static method": (_Methods.still, "HI"),
    "class method": (_Methods.named, "HI"),
    "partial": (functools.partial(_suffixed, suffix="?"), "HI?"),
    "partial of async": (functools.partial(_waits), "HI"),
    "partial of generator": (functools.partial(_generates), "HI"),
    "decorated": (_decorated(_waits), "HI"),
    "decorated generator": (_decorated(_generates), "HI"),
    "decorated anew": (_decorated_anew(_waits), "HI"),
    "generator decorated anew": (_decorated_anew(_generates), "HI"),
    "lambda": (_UPPER, "HI"),
    "builtin": (str.upper, "HI"),
    "builtin without signature": (str, "hi"),
    "any arguments": (_takes_any, "HI"),
}


@pytest.mark.parametrize(("agent", "output"), _AGENTS.values(), ids=_AGENTS.keys())
async def test_anything_that_takes_an_input_is_an_agent(agent: Any, output: str) -> None:
    """Objects that run or stream and functions of every kind give their answer as the step's output."""
    result = await Flujo(Step("ask", agent)).run_async("hi")

    assert (result.success, result.output) == (True, output)


@pytest.mark.parametrize(("agent", "output"), _AGENTS.values(), ids=_AGENTS.keys())
async def test_a_timeout_and_a_limit_change_no_answer(agent: Any, output: str) -> None:
    """The same agents give the same under a deadline that does not pass."""
    limits = UsageLimits(total_cost_usd_limit=0)

    result = await Flujo(Step("ask", agent, timeout_s=60), usage_limits=limits).run_async("hi")

    assert (result.success, result.output) == (True, output)


def _no_input() -> None: ...


def _only_keywords(*, data: str) -> str:
    return data


def _needs_more(data: str, other: str) -> str:
    return data + other


def _context_by_position(data: str, context: Any, /) -> str:
    return data + str(context)


_NO_AGENTS: list[tuple[Any, str]] = [
    (_Runs, "the class _Runs; give an instance"),
    (_Streams, "the class _Streams; give an instance"),
    (_Called, "the class _Called; give an instance"),
    ("gpt", "'gpt' is not an agent"),
    (7, "7 is not an agent"),
    (_no_input, "_no_input() takes no input"),
    (_only_keywords, "_only_keywords() takes no input"),
    (_needs_more, "needs 'other', which no step passes"),
    (_context_by_position, "needs 'context', which no step passes"),
    (Step("inner", _plain), "the agent is the step 'inner'; compose steps with >> or as_step"),
    (Step("a", _plain) >> Step("b", _plain), "the agent is the step 'pipeline'; compose steps with >> or as_step"),
    (Flujo(Step("inner", _plain)), "the agent is a Flujo; make it a step with Flujo(...).as_step('ask')"),
]


@pytest.mark.parametrize(("agent", "complaint"), _NO_AGENTS)
def test_what_cannot_be_called_is_refused_when_declared(agent: Any, complaint: str) -> None:
    """A class instead of its instance, no callable, and arguments that no step passes are errors at once."""
    with pytest.raises(ConfigurationError, match="step 'ask'") as raised:
        Step("ask", agent)

    assert complaint in str(raised.value)


def test_an_object_whose_run_is_no_method_is_refused() -> None:
    """An attribute called `run` that cannot be called makes no agent."""

    class Settings:
        run = 5

    settings: Any = Settings()

    with pytest.raises(ConfigurationError, match="is not an agent"):
        Step("ask", settings)


class _Annotated(type):
    """A metaclass whose classes say nothing about their attributes."""

    __annotations__ = "none"  # type: ignore[assignment]  # it may be anything


class _Odd(metaclass=_Annotated):
    pass


@pytest.mark.parametrize("answer", [type, type[_Odd], _Annotated, _Odd, StepResult])
def test_classes_without_usual_annotations_are_answers(answer: Any) -> None:
    """Any class may be declared as the answer, and is the output of the step."""

    def give(data: str) -> Any: ...

    give.__annotations__["return"] = answer

    assert Step("give", give).output_type == answer


async def test_a_step_without_an_agent_is_refused_before_the_run() -> None:
    """`Step(name)` may be declared, and given its agent later; a run without one raises."""
    with pytest.raises(MissingAgentError, match="step 'ask' has no agent"):
        await Flujo(Step("ask")).run_async("hi")


class _Asks(PipelineContext):
    word: str = "seen"


class _Clients(AppResources):
    key: str = "k"


_GIVEN: list[dict[str, Any]] = []


async def _asks_for_nothing(data: str) -> str:
    _GIVEN.append({})
    return data


async def _asks_for_context(data: str, context: _Asks) -> str:
    _GIVEN.append({"context": context.word})
    return data


async def _asks_by_keyword(data: str, *, resources: _Clients, temperature: float) -> str:
    _GIVEN.append({"resources": resources.key, "temperature": temperature})
    return data


async def _takes_what_comes(data: str, **others: Any) -> str:
    _GIVEN.append(dict.fromkeys(others))
    return data


async def _has_defaults(data: str, top_k: int = 3, top_p: float = 0.5, other: str = "own") -> str:
    _GIVEN.append({"top_k": top_k, "top_p": top_p, "other": other})
    return data


@pytest.mark.parametrize(
    ("agent", "config", "given"),
    [
        (_asks_for_nothing, {"temperature": 0.2}, {}),
        (_asks_for_context, {}, {"context": "seen"}),
        (_asks_by_keyword, {"temperature": 0.2}, {"resources": "k", "temperature": 0.2}),
        (_asks_by_keyword, {}, {"resources": "k", "temperature": None}),
        (_takes_what_comes, {"top_k": 1}, {"context": None, "resources": None, "top_k": None}),
        (_has_defaults, {"top_k": 1}, {"top_k": 1, "top_p": 0.5, "other": "own"}),
        (
            functools.partial(_has_defaults, top_k=9, other="bound"),
            {"top_k": 1},
            {"top_k": 9, "top_p": 0.5, "other": "bound"},
        ),
    ],
)
async def test_an_agent_gets_by_keyword_what_it_asks_for(
    agent: Any, config: dict[str, Any], given: dict[str, Any]
) -> None:
    """Context, resources and model settings go to agents whose signature has them, and to no others."""
    _GIVEN.clear()

    result = await Flujo(Step("ask", agent, **config), context_model=_Asks, resources=_Clients()).run_async("hi")

    assert result.success
    assert given == _GIVEN[0]


async def test_an_agent_that_asks_for_another_context_is_refused_before_the_run() -> None:
    """The annotation of `context` has to fit the context model of the run."""
    agent = Step("ask", _asks_for_context)

    with pytest.raises(TypeMismatchError, match="context of step 'ask'"):
        await Flujo(agent, context_model=PipelineContext).run_async("hi")


async def test_an_agent_that_runs_and_streams_is_asked_in_the_way_that_is_listened_to() -> None:
    """It streams when somebody iterates over the run and runs otherwise, each with the keywords of its own."""

    class Both:
        async def run(self, data: str, context: PipelineContext) -> str:
            return f"ran {context.initial_prompt}"

        async def stream(self, data: str, *, resources: _Clients) -> AsyncIterator[str]:
            yield "streamed "
            yield resources.key

    runner = Flujo(Step("ask", Both()), resources=_Clients())
    awaited = await runner.run_async("hi")
    *chunks, iterated = [item async for item in runner.run_async("hi")]

    assert awaited.output == "ran hi"
    assert (chunks, iterated.output) == (["streamed ", "k"], "streamed k")


async def test_feedback_is_a_keyword_for_agents_that_ask_for_it() -> None:
    """Such an agent gets its input unchanged, and `None` as the first feedback."""
    seen: list[tuple[Any, Any]] = []

    @validator
    def twice(output: str) -> tuple[bool, str | None]:
        return len(seen) == 2, "again"

    async def ask(data: str, feedback: str | None) -> str:
        seen.append((data, feedback))
        return data

    result = await Flujo(Step("ask", ask, validators=[twice])).run_async("hi")

    assert result.success
    assert seen == [("hi", None), ("hi", "twice: again")]
