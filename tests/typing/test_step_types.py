"""What a step takes and gives follows from its agent; mypy and pyright read these assertions with the repository.

mypy gives `Any` where it cannot choose between an async and a plain function because `Any` is in the signature.
"""

# ruff: noqa: D103 - the steps say with their names and types what they are

import functools
from collections.abc import AsyncIterator, Sequence, Sized
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar, assert_type, overload

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from flujo import (
    Pipeline,
    PipelineContext,
    Step,
    StepConfig,
    UsageLimits,
    adapter_step,
    step,
)
from flujo.testing import FailingStreamAgent, StubAgent

T = TypeVar("T")


class Notes(PipelineContext):
    words: int = 0


class Draft(BaseModel):
    text: str


class Reply(BaseModel):
    output: Draft
    cost_usd: float


@dataclass(frozen=True)
class Counted:
    output: int
    token_counts: int
    cost_usd: Decimal


@dataclass
class ModelAnswer(Generic[T]):
    output: T

    def usage(self) -> object:
        return None


class ModelAgent(Generic[T]):
    """An agent of a provider's library: an overloaded `run`, and an answer that knows its usage."""

    def __init__(self, answer: T) -> None:
        self._answer = answer

    @overload
    async def run(self, prompt: str | Sequence[int] | None = None, *, output_type: None = None) -> ModelAnswer[T]: ...
    @overload
    async def run(self, prompt: str | Sequence[int] | None = None, *, output_type: type[int]) -> ModelAnswer[int]: ...
    async def run(
        self, prompt: str | Sequence[int] | None = None, *, output_type: type[int] | None = None
    ) -> ModelAnswer[T] | ModelAnswer[int]:
        return ModelAnswer(self._answer)


class Answers:
    async def run(self, data: str) -> int:
        return len(data)

    async def method(self, data: str) -> Draft:
        return Draft(text=data)


class AnswersWithContext:
    async def run(self, data: str, *, context: Notes, resources: object = None) -> int:
        return len(data) + context.words


class Streams:
    async def stream(self, data: str) -> AsyncIterator[str]:
        yield data


class StreamsBytes:
    async def stream(self, data: str) -> AsyncIterator[bytes]:
        yield data.encode()


class AnswersAndStreams(Streams):
    async def run(self, data: str) -> str:
        return data


class Pays:
    async def run(self, data: str) -> Reply:
        return Reply(output=Draft(text=data), cost_usd=0.01)


class Calls:
    async def __call__(self, data: str) -> int:
        return len(data)


def plain(data: str) -> int:
    return len(data)


async def answer(data: str) -> int:
    return len(data)


async def answer_with_context(data: str, *, context: Notes, temperature: float = 0.5) -> int:
    return len(data) + context.words


async def chunks(data: str) -> AsyncIterator[str]:
    yield data


async def numbers(data: str) -> AsyncIterator[int]:
    yield len(data)


async def pay(data: str) -> Reply:
    return Reply(output=Draft(text=data), cost_usd=0.01)


def pay_plainly(data: str) -> Counted:
    return Counted(len(data), 3, Decimal("0.01"))


def test_functions_give_their_types() -> None:
    """A plain, async, bound or partial function gives its input and its answer, and so do classes and builtins."""
    assert_type(Step("plain", plain), Step[str, int])
    assert_type(Step("async", answer), Step[str, int])
    assert_type(Step("context", answer_with_context), Step[str, int])
    assert_type(Step("method", Answers().method), Step[str, Draft])
    assert_type(Step("unbound", str.upper), Step[str, str])
    assert_type(Step("builtin", len), Step[Sized, int])
    assert_type(Step("callable", Calls()), Step[str, int])
    Step("partial", functools.partial(answer_with_context, temperature=0.1))
    Step("lambda", lambda data: data)


def test_agents_give_their_types() -> None:
    """An object with `run` gives its answer, also where it could stream; one that streams text gives text."""
    assert_type(Step("answers", Answers()), Step[str, int])
    assert_type(Step("context", AnswersWithContext()), Step[str, int])
    assert_type(Step("streams", Streams()), Step[str, str])
    assert_type(Step("bytes", StreamsBytes()), Step[str, bytes])
    assert_type(Step("both", AnswersAndStreams()), Step[str, str])
    assert_type(Step("generator", chunks), Step[str, str])
    assert_type(Step("numbers", numbers), Step[str, Any])


def test_an_answer_with_its_cost_is_unpacked() -> None:
    """What reports a cost, tokens or usage beside an output gives the output."""
    assert_type(Step("model", Pays()), Step[str, Draft])
    assert_type(Step("function", pay), Step[str, Draft])
    assert_type(Step("plain", pay_plainly), Step[str, int])
    assert_type(Step("provider", ModelAgent(Draft(text=""))), Step[str | Sequence[int] | None, Draft])
    assert_type(Step("pay", pay) >> Step("read", text_of), Pipeline[str, str])


def test_the_input_of_an_unknown_agent_is_anything() -> None:
    """A step without an agent, with a scripted or with an untyped one fits everywhere, and takes a declared type."""
    untyped: Any = Answers()
    declared: Step[str, Draft] = Step("later")

    assert_type(Step("later"), Step[Any, Any])
    assert_type(Step("later", None), Step[Any, Any])
    assert_type(Step("stub", StubAgent([1])), Step[Any, Any])
    assert_type(Step("failing", FailingStreamAgent(["a"], OSError())), Step[Any, Any])
    assert_type(Step("untyped", untyped), Step[Any, Any])
    assert_type(Step("answer", answer) >> Step("stub", StubAgent([1])) >> declared, Pipeline[str, Draft])


def test_options_do_not_change_the_types() -> None:
    """Config values, a whole config, limits and a fallback leave the step's types as they are."""
    assert_type(Step(name="a", agent=answer, max_retries=2, timeout_s=1.5, temperature=0.1), Step[str, int])
    assert_type(Step("a", answer, config=StepConfig(), usage_limits=UsageLimits()), Step[str, int])
    assert_type(Step("a", answer, fallback_step=Step("b", plain)), Step[str, int])
    assert_type(Step("a", answer).fallback(Step("b", plain)), Step[str, int])


def test_factories_give_the_types_of_their_function() -> None:
    """`from_callable` and its relatives infer what `Step` does."""
    assert_type(Step.from_callable(answer, name="a"), Step[str, int])
    assert_type(Step.from_callable(plain, updates_context=False, max_retries=0), Step[str, int])
    assert_type(Step.from_callable(chunks), Step[str, str])
    assert_type(Step.from_callable(pay), Step[str, Draft])
    assert_type(Step.from_mapper(text_of), Step[Draft, str])
    assert_type(Step.from_mapper(answer, "a"), Step[str, int])
    assert_type(Step.solution(answer), Step[str, int])
    assert_type(Step.review(Pays(), timeout_s=3), Step[str, Draft])
    assert_type(Step.validate_step(Answers(), validators=[], strict=False), Step[str, int])


def test_decorators_give_the_types_of_their_function() -> None:
    """`@step`, with and without options, and `@adapter_step` make a typed step of a function."""

    @step
    async def first(data: str) -> int:
        return len(data)

    @step(name="second", max_retries=3, updates_context=False)
    async def second(data: int, *, context: Notes) -> Draft:
        return Draft(text=str(data + context.words))

    @step()
    def third(draft: Draft) -> str:
        return draft.text

    @adapter_step
    def fourth(data: str) -> list[str]:
        return data.split()

    @step
    async def fifth(words: list[str]) -> AsyncIterator[str]:
        for word in words:
            yield word

    assert_type(first, Step[str, int])
    assert_type(second, Step[int, Draft])
    assert_type(third, Step[Draft, str])
    assert_type(fourth, Step[str, list[str]])
    assert_type(fifth, Step[list[str], str])
    assert_type(first >> second >> third >> fourth >> fifth, Pipeline[str, str])


def text_of(draft: Draft) -> str:
    return draft.text


def test_an_agent_of_a_model_takes_anything() -> None:
    """Its output is that of the agent; what is no text is given to the model as JSON."""
    drafting = Step("draft", Agent(TestModel(), output_type=Draft))
    telling = Step("tell", Agent(TestModel()), max_retries=2, max_cost_usd=0.1)

    assert_type(drafting, Step[Any, Draft])
    assert_type(telling, Step[Any, str])
    assert_type(drafting >> telling, Pipeline[Any, str])
    assert_type(Step("draft", draft_of) >> telling, Pipeline[str, str])


async def draft_of(text: str) -> Draft:
    return Draft(text=text)
