"""Conversations that agents of several steps go on with."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import Field
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.embeddings import Embedder, TestEmbeddingModel
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from flujo import (
    ConfigurationError,
    Flujo,
    InMemoryBackend,
    MergeStrategy,
    PipelineContext,
    Step,
    ValidationResult,
)


class Talk(PipelineContext):
    """A context with a conversation."""

    talk: list[Any] = Field(default_factory=list[Any])
    written: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    typed: list[ModelMessage] = Field(default_factory=list[ModelMessage])
    maybe: list[Any] | None = None
    words: list[str] = Field(default_factory=list[str])


def _texts(messages: list[ModelMessage]) -> list[str]:
    return [str(getattr(part, "content", "")) for message in messages for part in message.parts]


class _Killed(BaseException):
    """Stands for the end of the process."""


def _agent(seen: list[list[str]], system_prompt: str = "Be brief.", *, dies_at: int = -1) -> Agent[None, str]:
    """Return an agent that notes what it was told, and numbers its answers."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(seen) == dies_at:
            seen.append(["killed"])
            raise _Killed
        seen.append(_texts(messages))
        return ModelResponse([TextPart(f"answer {len(seen)}")])

    return Agent(FunctionModel(answer), system_prompt=system_prompt or ())


def _runner(pipeline: Any, **settings: Any) -> Flujo[Any, Any]:
    return Flujo(pipeline, context_model=Talk, **settings)


async def test_a_later_step_goes_on_with_the_conversation() -> None:
    """Its agent sees what was said, below a system prompt of its own."""
    seen = list[list[str]]()
    first = Step("first", _agent(seen), message_history="talk")
    second = Step("second", _agent(seen, "Be kind."), prompt="Why?", message_history="talk")
    alone = Step("alone", _agent(seen))

    result = await _runner(first >> second >> alone).run_async("Who?")

    assert seen[0] == ["Be brief.", "Who?"]
    assert seen[1] == ["Be kind.", "Who?", "answer 1", "Why?"]
    assert seen[2] == ["Be brief.", "answer 2"]
    assert len(result.final_pipeline_context.talk) == 4


async def test_a_loop_is_a_conversation() -> None:
    """Each iteration adds to it."""
    seen = list[list[str]]()
    body = Step("ask", _agent(seen, ""), message_history="talk")

    await _runner(Step.loop_until("loop", body, lambda output, context: output == "answer 3")).run_async("go")

    assert seen[2] == ["go", "answer 1", "answer 1", "answer 2", "answer 2"]


async def test_only_what_was_accepted_is_kept() -> None:
    """An attempt that was refused leaves nothing behind."""
    seen = list[list[str]]()

    class Judge:
        name = "judge"

        async def validate(self, output: Any, context: Any = None) -> ValidationResult:
            return ValidationResult(is_valid=output == "answer 2", feedback="again", validator_name=self.name)

    step = Step("ask", _agent(seen, ""), message_history="talk", validators=[Judge()], max_retries=1)
    result = await _runner(step).run_async("go")

    assert len(seen[1]) == 1
    assert [message["kind"] for message in result.final_pipeline_context.talk] == ["request", "response"]


async def test_streams_and_files_are_kept_too() -> None:
    """What comes piece by piece, and what is no text."""
    seen = list[list[str]]()

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "one "
        yield "two"

    picture = BinaryContent(b"\x00\xff", media_type="image/png")
    first = Step("first", Agent(FunctionModel(stream_function=stream)), message_history="talk")
    *_, result = [item async for item in _runner(first).run_async(["What is it?", picture])]
    assert result.output == "one two"
    second = Step("second", _agent(seen, ""), message_history="talk")
    context = {"talk": result.final_pipeline_context.talk}

    await _runner(second, initial_context_data=context, state_backend=InMemoryBackend()).run_async("And now?")

    assert repr(picture.data) in seen[0][0]
    assert seen[0][1:] == ["one two", "And now?"]


async def test_branches_add_to_a_conversation() -> None:
    """Each goes on with what was said before; what they said is merged in the order of declaration."""
    seen = list[list[str]]()
    branches = {name: Step(name, _agent(seen, ""), message_history="talk") for name in ("a", "b")}
    both = Step.parallel("both", branches, merge_strategy=MergeStrategy.CONTEXT_UPDATE)
    first = Step("first", _agent(seen, ""), message_history="talk")

    result = await _runner(first >> both).run_async("go")

    assert [len(texts) for texts in seen] == [1, 3, 3]
    assert len(result.final_pipeline_context.talk) == 6


async def test_a_run_that_goes_on_knows_what_was_said() -> None:
    """As if it had not been killed."""
    seen = list[list[str]]()
    pipeline = Step("first", _agent(seen, ""), message_history="talk") >> Step(
        "second", _agent(seen, "", dies_at=1), prompt="Why?", message_history="talk"
    )
    runner = _runner(pipeline, state_backend=InMemoryBackend())
    with pytest.raises(_Killed):
        await runner.run_async("Who?", run_id="run")

    result = await runner.run_async("Who?", run_id="run")

    assert seen == [["Who?"], ["killed"], ["Who?", "answer 1", "Why?"]]
    assert len(result.final_pipeline_context.talk) == 4


@pytest.mark.parametrize(("field", "kind"), [("written", dict), ("typed", ModelRequest)])
async def test_the_list_may_say_what_it_is_of(field: str, kind: type) -> None:
    """JSON, or messages of pydantic-ai, which are stored as they are."""
    seen = list[list[str]]()
    picture = BinaryContent(b"\x00\xff", media_type="image/png")
    first = Step("first", _agent(seen, ""), message_history=field)
    second = Step("second", _agent(seen, "", dies_at=1), message_history=field)
    runner = _runner(first >> second, state_backend=InMemoryBackend())
    with pytest.raises(_Killed):
        await runner.run_async(["What is it?", picture], run_id="run")

    result = await runner.run_async(["What is it?", picture], run_id="run")

    assert repr(picture.data) in seen[2][0]
    assert seen[2][1:] == ["answer 1", "answer 1"]
    assert [isinstance(each, kind) for each in getattr(result.final_pipeline_context, field)][0::2] == [True, True]


async def _shout(text: str) -> str:
    return text.upper()


async def _converse(text: str, *, messages: list[Any]) -> str:
    messages.append(text)
    return f"{len(messages)}"


async def test_an_agent_of_ones_own_may_converse() -> None:
    """It gets the list by keyword, and appends to it."""
    step = Step("talk", _converse, message_history="talk")

    result = await _runner(step >> step).run_async("hello")

    assert (result.output, result.final_pipeline_context.talk) == ("2", ["hello", "1"])


@pytest.mark.parametrize(
    ("agent", "field", "message"),
    [
        (_agent([]), "chat", "the context field 'chat', which Talk does not have as a list"),
        (_agent([]), "initial_prompt", "which Talk does not have as a list"),
        (_agent([]), "maybe", "which Talk does not have as a list"),
        (_agent([]), "words", r"the context field 'words', a list\[str\]; make it a list\[dict\[str, Any\]\]"),
        (_shout, "talk", "a conversation, which its agent cannot go on with"),
        (Embedder(TestEmbeddingModel()), "talk", "a conversation, which its agent cannot go on with"),
    ],
)
async def test_a_conversation_needs_a_list_and_an_agent_that_hears_it(agent: Any, field: str, message: str) -> None:
    """The error comes before the run."""
    with pytest.raises(ConfigurationError, match=message):
        await _runner(Step("ask", agent, message_history=field)).run_async("x")
