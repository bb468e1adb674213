"""What may be an agent, how it is called, and what its answer cost.

An agent is an object with `async def run(self, data, ...)` or with `stream(...)`, or a function.
`AgentCall` looks at it once, when its step is declared, and refuses what could not be called;
running the step then costs no more than the call itself.
"""

import contextlib
import functools
import inspect
import operator
import reprlib
import types
import typing
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from numbers import Real
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, Union, runtime_checkable

from pydantic import BaseModel

from flujo.domain.money import ZERO, add_usd, exact_usd
from flujo.domain.pipeline import BaseStep
from flujo.domain.results import StepResult
from flujo.domain.type_compatibility import fits
from flujo.exceptions import ConfigurationError, NonRetryableError
from flujo.utils.narrowing import is_mapping

InT = TypeVar("InT")
OutT = TypeVar("OutT")
InT_contra = TypeVar("InT_contra", contravariant=True)
OutT_co = TypeVar("OutT_co", covariant=True)


class AsyncAgent(Protocol[InT_contra, OutT_co]):
    """An agent that answers at once."""

    def run(self, data: InT_contra, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, OutT_co]:
        """Answer one input."""
        ...


class StreamAgent(Protocol[InT_contra, OutT_co]):
    """An agent that answers in chunks; strings are joined to the step's output."""

    def stream(self, data: InT_contra, /, *args: Any, **kwargs: Any) -> AsyncIterator[OutT_co]:
        """Answer one input, chunk by chunk."""
        ...


SETTINGS = ("temperature", "top_k", "top_p")
"""Model settings of `StepConfig` that agents may ask for by keyword."""

KEYWORDS = ("context", "resources", "feedback", "meter", "messages", *SETTINGS)
"""What an agent may ask for by keyword: it gets what its signature names, and nothing else."""

_BY_NAME_ONLY = ("feedback", "meter", "messages")  # who takes any keyword does not get them: it would only hand them on

_NO_COST_REPORT: frozenset[type] = frozenset(
    {type(None), bool, int, float, complex, str, bytes, list, dict, tuple, set, frozenset, Decimal}
)
_EMPTY = inspect.Parameter.empty


@runtime_checkable
class _HasRun(Protocol):
    def run(self, data: Any, /) -> Any: ...


@runtime_checkable
class _HasStream(Protocol):
    def stream(self, data: Any, /) -> Any: ...


@runtime_checkable
class _MakesStep(Protocol):
    def as_step(self, name: str, /) -> Any: ...


@dataclass(slots=True)
class Answer:
    """What one call of an agent came to.

    Attributes:
        output: The answer itself, without its cost report; of a report that is odd too.
        cost: US dollars the answer reports, exact.
        tokens: Tokens the answer reports, input and output together.
        failure: Why there is no answer, or none that counts; `None` for a good one.
    """

    output: Any = None
    cost: Decimal = ZERO
    tokens: int = 0
    failure: BaseException | None = None


def read_answer(answer: Any) -> Answer:
    """Split an agent's answer into its output and the cost it reports.

    An answer with `cost_usd` or `token_counts` is charged; one with provider usage (`total_tokens`, or `input_tokens`
    and `output_tokens`) counts those tokens. Such an answer is unpacked to its `output` if it has one.
    Any other answer is the output itself. So are a `StepResult` and a `PipelineResult`, whatever they cost:
    nobody can tell whether they were charged already, as those that come from an earlier step are.
    A run that an agent starts itself therefore counts for itself alone; `as_step` makes it count in the outer run.

    What can be read of a report that is odd is in the answer, beside a `failure` that says what is odd:
    a `NonRetryableError`, as calling again would only pay again.
    """
    if type(answer) in _NO_COST_REPORT or isinstance(answer, StepResult):
        return Answer(answer)
    odd = list[str]()
    cost = getattr(answer, "cost_usd", None)
    tokens = getattr(answer, "token_counts", None)
    if tokens is None:
        try:
            tokens = _provider_tokens(answer)
        except Exception as error:  # reading the usage may call code of the user's
            odd.append(f"no usage that can be read: {error!r}")
    if cost is None and tokens is None and not odd:
        return Answer(answer)
    read = Answer(getattr(answer, "output", answer))
    try:
        read.cost = _amount(cost)
    except Exception as error:  # what stands for a number is code of the user's
        odd.append(f"cost_usd={reprlib.repr(cost)}: {error}")
    try:
        read.tokens = _count(tokens)
    except Exception as error:  # and so it is here
        odd.append(f"token_counts={reprlib.repr(tokens)}: {error}")
    if odd:
        read.failure = NonRetryableError(f"{type(answer).__name__} reports {'; '.join(odd)}")
    return read


def _provider_tokens(answer: Any) -> Any:
    usage = getattr(answer, "usage", None)
    if callable(usage) and hasattr(answer, "output") and not hasattr(usage, "total_tokens"):
        usage = usage()
    total = getattr(usage, "total_tokens", None)
    if total is None:
        sent, received = getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None)
        total = None if sent is None or received is None else _count(sent) + _count(received)
    return total


def _amount(cost: Any) -> Decimal:
    if cost is None:
        return ZERO
    if isinstance(cost, (float, int, Decimal)):
        return exact_usd(cost)
    if (whole := _integer(cost)) is not None:
        return exact_usd(whole)
    if isinstance(cost, Real):  # such as a float32 of numpy, which prints as a decimal too
        with contextlib.suppress(InvalidOperation):
            return exact_usd(Decimal(str(cost)))
    raise ValueError("dollars are a number, or None for none")


def _count(tokens: Any) -> int:
    if tokens is None:
        return 0
    count = tokens if type(tokens) is int else _integer(tokens)
    if count is None or count < 0:
        raise ValueError("a count of tokens is an integer, 0 or more, or None for none")
    return count


def _integer(number: Any) -> int | None:
    """Return what counts as an integer, those of numpy included, but neither a bool nor a mock, which does as if."""
    if isinstance(number, bool):
        return None
    try:
        whole = operator.index(number)
    except TypeError:
        return None
    return whole if number == whole else None


@dataclass(slots=True, frozen=True)
class Partial:
    """A chunk of a stream that takes the place of all chunks before it: the answer so far, and in the end the answer.

    Whoever consumes the stream gets the value.

    Example:
        ```python
        from flujo import Flujo, Partial, Step

        class Counter:
            async def stream(self, data: int):
                for number in range(1, data + 1):
                    yield Partial({"counted": number})

        assert Flujo(Step("count", Counter())).run(3).output == {"counted": 3}
        ```
    """

    value: Any


@dataclass(slots=True)
class StreamedAnswer:
    """Collects the chunks of a stream, and what they cost, into one answer."""

    chunks: list[Any] = field(default_factory=list[Any])
    cost: Decimal = ZERO
    tokens: int = 0
    is_partial: bool = False

    def add(self, chunk: Any) -> Any:
        """Take one chunk and return what of it is output.

        Raises:
            NonRetryableError: Its report of what it cost is odd; what can be read of it is added.
        """
        if isinstance(chunk, Partial):
            self.chunks, self.is_partial = [chunk.value], True
            return chunk.value
        read = read_answer(chunk)
        self.chunks.append(read.output)
        self.cost = add_usd(self.cost, read.cost)
        self.tokens += read.tokens
        if read.failure is not None:
            raise read.failure
        return read.output

    def whole(self) -> Answer:
        """Return the answer: strings and bytes joined, the last of partial answers, any other chunks as a list."""
        output: Any = self.chunks
        if self.is_partial:
            output = self.chunks[-1]
        elif self.chunks and all(isinstance(chunk, str) for chunk in self.chunks):
            output = "".join(self.chunks)
        elif self.chunks and all(isinstance(chunk, bytes) for chunk in self.chunks):
            output = b"".join(self.chunks)
        return Answer(output, self.cost, self.tokens)


class AdaptedAgent(Protocol):
    """Stands for an agent of another library, which is called in a way of its own."""

    @property
    def output_type(self) -> Any:
        """What the agent answers; `Any` if nobody knows."""
        ...

    @property
    def conversation_types(self) -> Sequence[Any]:
        """What a conversation that the agent goes on with may be declared as; none if it does not."""
        ...

    def unpriced_model(self) -> str | None:
        """Return the model that it asks if that has no price; `None` if it has, or if it cannot be told yet."""
        ...


_ADAPTERS: dict[str, Callable[[Any], AdaptedAgent]] = {}


def adapt_agents_of(package: str, adapter: Callable[[Any], AdaptedAgent]) -> None:
    """Let what an adapter returns stand for every agent whose class, or a base of it, a package defines.

    Args:
        package: The name of a top-level package; it need not be imported.
        adapter: Called with an agent when a step gets it.
    """
    _ADAPTERS[package] = adapter


def _adapted(agent: object) -> AdaptedAgent | None:
    for base in type(agent).__mro__:
        adapter = _ADAPTERS.get(base.__module__.partition(".")[0])
        if adapter is not None:
            return adapter(agent)
    return None


@dataclass(slots=True, frozen=True)
class AgentCall(Generic[InT, OutT]):
    """How an agent is called; made once, when its step is declared.

    Attributes:
        run: Called with the input; `None` if the agent only streams.
        stream: Called with the input, gives chunks; `None` if the agent does not stream.
        keywords: Which of `KEYWORDS` the agent asks for where it runs.
        stream_keywords: Which of them it asks for where it streams.
        needed_settings: Which model settings it cannot be called without.
        input_type: The annotation of its input, `Any` if there is none.
        output_type: The annotation of its answer, `Any` if there is none or if it streams.
        context_type: The annotation of its `context`, `Any` if there is none.
        is_coroutine: Whether `run` always gives an awaitable.
        is_metered: Whether the agent reserves by itself what its calls may cost.
        adapted: What stands for the agent, if it is one of another library.
        may_report_cost: Whether an answer may report a cost that was not reserved, as far as its type is declared.
    """

    run: Callable[..., Any] | None
    stream: Callable[..., Any] | None
    keywords: frozenset[str]
    stream_keywords: frozenset[str]
    needed_settings: frozenset[str]
    input_type: Any
    output_type: Any
    context_type: Any
    is_coroutine: bool
    is_metered: bool
    may_report_cost: bool
    adapted: AdaptedAgent | None = None

    @classmethod
    def of(cls, agent: object, step_name: str) -> "AgentCall[Any, Any]":
        """Look at an agent.

        Raises:
            ConfigurationError: It is nothing that can be called with a step's input.
        """
        adapted = _adapted(agent)
        if adapted is not None:
            return replace(cls.of(adapted, step_name), output_type=adapted.output_type, adapted=adapted)
        run, stream = _entry_points(agent, step_name)
        target = run or stream
        assert target is not None, "an agent has at least one entry point"
        hints = _type_hints(target)
        first, others = _parameters(target, step_name)
        streamed = others if stream is None or run is None else _parameters(stream, step_name)[1]
        keywords = _keywords(others, target, step_name)
        stream_keywords = _keywords(streamed, stream or target, step_name)
        return cls(
            run=run,
            stream=stream,
            keywords=keywords,
            stream_keywords=stream_keywords,
            needed_settings=frozenset(
                parameter.name
                for parameter in (*others, *streamed)
                if parameter.name in SETTINGS and parameter.default is _EMPTY
            ),
            input_type=hints.get(first.name, Any) if first else Any,
            output_type=_answer_type(hints.get("return", Any), streams=run is None),
            context_type=hints.get("context", Any),
            is_coroutine=inspect.iscoroutinefunction(run),
            is_metered="meter" in keywords | stream_keywords,
            may_report_cost=any(
                _may_report_cost(_type_hints(each).get("return", Any))
                for each, asked in ((run, keywords), (stream, stream_keywords))
                if each is not None and "meter" not in asked
            ),
        )

    @property
    def hears_messages(self) -> bool:
        """Whether the agent goes on with a conversation."""
        return "messages" in self.keywords | self.stream_keywords

    @property
    def hears_feedback(self) -> bool:
        """Whether feedback may reach the agent: by keyword, or within an input that has room for it."""
        return "feedback" in self.keywords or any(map(_has_room, _union_members(self.input_type)))


def has_feedback_field(kind: Any) -> bool:
    """Return whether a type is a model or a dataclass with a field `feedback` that takes text."""
    if not inspect.isclass(kind):
        return False
    if issubclass(kind, BaseModel):
        field = kind.model_fields.get("feedback")
        return field is not None and fits(str, field.annotation)
    named = getattr(kind, "__dataclass_fields__", {})
    return "feedback" in named and fits(str, _type_hints(kind.__init__).get("feedback", Any))


def _has_room(kind: Any) -> bool:
    """Return whether an input of a declared type may be text, a dict, or have a field for feedback."""
    cls = typing.get_origin(kind) or kind
    if cls is Annotated:
        return any(map(_has_room, _union_members(typing.get_args(kind)[0])))
    if cls is Any or not inspect.isclass(cls) or issubclass(cls, (str, dict)) or has_feedback_field(cls):
        return True
    try:
        return issubclass(str, cls) or issubclass(dict, cls)
    except TypeError:  # of a protocol nobody can tell
        return True


def _union_members(kind: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(kind) in (Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _entry_points(agent: object, step_name: str) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    _refuse_workflow(agent, step_name)
    run = _callable_or_none(agent.run) if isinstance(agent, _HasRun) else None  # a flag of that name is no method
    stream = _callable_or_none(agent.stream) if isinstance(agent, _HasStream) else None
    if isinstance(agent, type) and (run or stream or _makes_callables(agent)):
        raise ConfigurationError(
            f"step {step_name!r}: the agent is the class {agent.__name__}; give an instance, {agent.__name__}(...)"
        )
    if run is None and stream is None:
        run = _callable_or_none(agent)
    if run is None and stream is None:
        raise ConfigurationError(
            f"step {step_name!r}: {reprlib.repr(agent)} is not an agent; give an object with "
            "`async def run(self, data)`, one with `stream`, or a function"
        )
    return (None, stream or run) if run is not None and _is_generator(run) else (run, stream)


def _refuse_workflow(agent: object, step_name: str) -> None:
    if isinstance(agent, BaseStep):
        raise ConfigurationError(
            f"step {step_name!r}: the agent is the {agent.describe()}; compose steps with >> or as_step"  # pyright: ignore[reportUnknownMemberType]  # a step of any types
        )
    if isinstance(agent, _MakesStep) and not isinstance(agent, type):
        raise ConfigurationError(
            f"step {step_name!r}: the agent is a {type(agent).__name__}; "
            f"make it a step with {type(agent).__name__}(...).as_step({step_name!r})"
        )


def _callable_or_none(value: Any) -> Callable[..., Any] | None:
    return value if callable(value) else None


def _makes_callables(cls: type) -> bool:
    return any("__call__" in vars(base) for base in cls.__mro__)


def _is_generator(function: Callable[..., Any]) -> bool:
    """Return whether a function, or what an object is called as, is an async generator: it streams."""
    called = type(function).__call__
    return inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(called)


def _parameters(target: Callable[..., Any], step_name: str) -> tuple[inspect.Parameter | None, list[inspect.Parameter]]:
    """Return the parameter that takes the input, as far as it has a name, and those that may be given by keyword."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except ValueError:  # some builtins have none; they are called with the input alone
        return None, []
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if not parameters or parameters[0].kind not in positional:
        raise ConfigurationError(
            f"step {step_name!r}: {_describe(target)} takes no input; its first argument is the step's input"
        )
    first, *others = parameters
    bound: Mapping[str, Any] = target.keywords if isinstance(target, functools.partial) else {}
    others = [parameter for parameter in others if parameter.name not in bound]
    return None if first.kind is inspect.Parameter.VAR_POSITIONAL else first, others


def _keywords(parameters: list[inspect.Parameter], target: Callable[..., Any], step_name: str) -> frozenset[str]:
    asked: set[str] = set()
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            asked.update(name for name in KEYWORDS if name not in _BY_NAME_ONLY)
        elif parameter.name in KEYWORDS and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            asked.add(parameter.name)
        elif parameter.default is _EMPTY and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            raise ConfigurationError(
                f"step {step_name!r}: {_describe(target)} needs {parameter.name!r}, which no step passes; "
                f"give it a default (agents may ask for {', '.join(KEYWORDS)})"
            )
    return frozenset(asked)


def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        function = target.func if isinstance(target, functools.partial) else type(target).__call__
    if inspect.isclass(function):
        return {"return": function}
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):  # what cannot be evaluated here is unknown
        return {}


def _answer_type(annotation: Any, *, streams: bool) -> Any:
    if streams:
        return Any
    origin = typing.get_origin(annotation)
    if inspect.isclass(origin) and issubclass(origin, Awaitable):
        annotation = typing.get_args(annotation)[-1]
    return Any if _may_be_unpacked(annotation) else annotation


def _may_be_unpacked(annotation: Any) -> bool:
    """Return whether an answer of a declared type may be read as its `output`, which is of another type."""
    members = _union_members(annotation)
    if len(members) > 1:
        return any(map(_may_be_unpacked, members))
    cls = typing.get_origin(annotation) or annotation
    if not inspect.isclass(cls) or issubclass(cls, StepResult):
        return False
    names = {name for base in cls.__mro__ for name in _attributes(base)}
    return "output" in names and not names.isdisjoint(("cost_usd", "token_counts", "usage"))


def _may_report_cost(annotation: Any) -> bool:
    """Return whether an answer or a chunk of a declared type may say what it cost, as `read_answer` reads it."""
    members, arguments = _union_members(annotation), typing.get_args(annotation)
    if len(members) > 1:
        return any(map(_may_report_cost, members))
    cls = typing.get_origin(annotation) or annotation
    if cls is Annotated:
        return _may_report_cost(arguments[0])
    if not inspect.isclass(cls) or cls in (Any, object, BaseModel):
        return cls is not Literal
    if cls in _NO_COST_REPORT or typing.is_typeddict(cls):
        return False
    if issubclass(cls, Awaitable):
        return _may_report_cost(arguments[-1] if arguments else Any)
    if issubclass(cls, (AsyncIterable, Iterator)):
        return _may_report_cost(arguments[0] if arguments else Any)
    if issubclass(cls, BaseModel) and cls.model_config.get("extra") == "allow":
        return True
    named = {name for base in cls.__mro__ if base is not BaseModel for name in _attributes(base)}
    return not named.isdisjoint(("cost_usd", "token_counts", "usage", "__getattr__"))


def _attributes(cls: type) -> Iterable[str]:
    """Return what a class itself gives its instances, and all that its constructor names, which may be set there."""
    init = vars(cls).get("__init__")
    named = init.__code__.co_names if inspect.isfunction(init) else ()
    annotations = vars(cls).get("__annotations__")  # of `type` itself it is a descriptor, of a metaclass anything
    return (*vars(cls), *(annotations if is_mapping(annotations) else ()), *named)


def _describe(target: Callable[..., Any]) -> str:
    return f"{getattr(target, '__qualname__', repr(target))}()"
