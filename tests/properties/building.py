"""Makes flujo pipelines of programs, through the names that users import."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import Field

from flujo import (
    BaseStep,
    BaseValidator,
    BranchFailureStrategy,
    MergeStrategy,
    NonRetryableError,
    PausedException,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RefinementCheck,
    Step,
    StepResult,
    UsageLimits,
    ValidationResult,
)
from flujo.domain.pipeline import SubPipelineStep
from tests.properties.programs import (
    Agent,
    Cached,
    Conditional,
    Effect,
    Fanout,
    Human,
    Loop,
    Map,
    Node,
    Parallel,
    Refine,
    Rescue,
    Router,
    Seq,
    Sub,
    answer,
    question,
    reply,
    weigh,
)
from tests.properties.world import WORLD

AnyStep = BaseStep[Any, Any]
Limits = Mapping[str, UsageLimits]
"""Limits by the name of the step they stand at."""


class Board(PipelineContext):
    """The context of every program."""

    a: int = 0
    b: int = 0
    notes: list[int] = Field(default_factory=list[int])
    tally: dict[str, int] = Field(default_factory=dict[str, int])
    items: list[int] = Field(default_factory=list[int])


def plain(value: Any) -> Any:
    """Return a value as the reference model has it."""
    if isinstance(value, StepResult):
        return {"branch": value.name, "status": value.status}
    if isinstance(value, PipelineResult):
        return {"run": value.status, "output": plain(value.output)}  # pyright: ignore[reportUnknownMemberType]  # of any type
    if isinstance(value, RefinementCheck):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]  # a dict of anything
    if isinstance(value, list):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]  # a list of anything
    return value


# Agents


@dataclass(frozen=True, slots=True)
class _Priced:
    """An answer that reports what it costs."""

    output: Any
    cost_usd: Decimal | float
    token_counts: int


class _ScriptedError(Exception):
    """A failure that reports what it costs."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(f"{agent.name} was told to fail")
        self.cost_usd = agent.failure_cost
        self.token_counts = agent.tokens


class _Question(PausedException):
    """A question that costs what an answer does."""

    def __init__(self, agent: Agent, seen: Any) -> None:
        super().__init__(question(agent, seen))
        self.cost_usd = agent.cost
        self.token_counts = agent.tokens


class _FatalError(_ScriptedError, NonRetryableError):
    """The same, and not to be retried."""


class _Script:
    """What all styles of agents do."""

    def __init__(self, agent: Agent, *, people: bool) -> None:
        self.agent = agent
        self._people = people

    def begin(self, feedback: str | None) -> bool:
        """Begin a call and return whether it is to fail; it gets feedback if the attempt before it was refused."""
        world = WORLD.get()
        expects = world.is_retry(self.agent) and world.ending(self.agent) == "is refused"
        assert (feedback is not None) == expects, f"{self.agent.name} got the feedback {feedback!r}"
        return world.begin(self.agent)

    async def wait(self, taken: int = 0) -> None:
        """Wait for one's turn, as often as the script says; `taken` tokens were charged before."""
        world = WORLD.get()
        try:
            for _ in range(self.agent.waits):
                await world.turnstile.wait()
        except asyncio.CancelledError:
            world.cut(self.agent, taken)
            raise

    def end(self, data: Any, context: Any, *, fails: bool, taken: int = 0) -> _Priced:
        """Answer or fail, and be charged for it; `taken` tokens were charged before."""
        agent, seen = self.agent, plain(data)
        affect(context, agent.effects, weigh(seen) % 5)
        WORLD.get().charge(agent, seen, agent.charge(fails=fails), agent.tokens + taken)
        if fails:
            raise _FatalError(agent) if agent.is_fatal else _ScriptedError(agent)
        if agent.asks and self._people:
            raise _Question(agent, seen)
        output = reply(question(agent, seen)) if agent.asks else answer(agent, seen)
        if agent.shape == "check":
            output = RefinementCheck.model_validate(output)
        return _Priced(output, agent.cost, agent.tokens)

    async def ask(self, data: Any, context: Any = None, feedback: str | None = None) -> Any:
        """Answer at once."""
        fails = self.begin(feedback)
        await self.wait()
        return self.end(data, context, fails=fails)

    async def chunks(self, data: Any, context: Any = None, feedback: str | None = None) -> AsyncIterator[Any]:
        """Answer in chunks, the first of which brings tokens already where nothing but a stream can be asked."""
        agent, fails = self.agent, self.begin(feedback)
        taken = agent.tokens if agent.streams and fails else 0
        if taken:
            yield _Priced("too", 0.0, taken)
        await self.wait(taken)
        whole = self.end(data, context, fails=fails, taken=taken)
        text = str(whole.output)
        yield text[:2]
        yield _Priced(text[2:], whole.cost_usd, whole.token_counts)


class _Runner(_Script):
    async def run(self, data: Any) -> Any:
        return await self.ask(data)


class _ContextRunner(_Script):
    async def run(self, data: Any, *, context: Any, feedback: str | None = None) -> Any:
        return await self.ask(data, context, feedback)


class _Streamer(_Script):
    def stream(self, data: Any) -> AsyncIterator[Any]:
        return self.chunks(data)


class _ContextStreamer(_Script):
    def stream(self, data: Any, *, context: Any, feedback: str | None = None) -> AsyncIterator[Any]:
        return self.chunks(data, context, feedback)


class _Both(_Runner, _Streamer):
    pass


class _ContextBoth(_ContextRunner, _ContextStreamer):
    pass


def agent_of(script: Agent, *, people: bool) -> Any:
    """Return an agent that follows a script; it asks for context and feedback only if it has a use for them."""
    asks_for_more = bool(script.effects or script.refusals)
    match script.style:
        case "coroutine":
            return (_ContextRunner if asks_for_more else _Runner)(script, people=people).run
        case "object":
            return (_ContextRunner if asks_for_more else _Runner)(script, people=people)
        case "stream":
            return (_ContextStreamer if asks_for_more else _Streamer)(script, people=people)
        case "both":
            return (_ContextBoth if asks_for_more else _Both)(script, people=people)
        case "function":
            return _function(_Script(script, people=people), asks_for_more=asks_for_more)


def _function(script: _Script, *, asks_for_more: bool) -> Any:
    def ask(data: Any) -> Any:
        return script.end(data, None, fails=script.begin(None))

    def ask_for_more(data: Any, context: Any, feedback: str | None = None) -> Any:
        return script.end(data, context, fails=script.begin(feedback))

    return ask_for_more if asks_for_more else ask


class _Judge(BaseValidator):
    """Refuses as many answers as the script says."""

    def __init__(self, agent: Agent) -> None:
        super().__init__("judge")
        self._agent = agent

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        is_refused = WORLD.get().ending(self._agent) == "is refused"
        return ValidationResult(is_valid=not is_refused, feedback="try again" if is_refused else None)


def affect(context: Any, effects: tuple[Effect, ...], value: int) -> None:
    """Do to a context what a script says."""
    for effect in effects:
        verb, name = effect.split()
        match verb:
            case "set":
                setattr(context, name, value)
            case "append":
                context.notes.append(value)
            case "replace":
                context.notes = [value]
            case "put":
                context.tally[name] = value
            case "drop":
                context.tally.pop(name, None)
            case _:
                context.scratchpad[name] = value


# Steps


def build(node: Node, limits: Limits | None = None, *, people: bool = True) -> AnyStep:
    """Return the step that a node describes.

    Args:
        node: The node.
        limits: What the steps of these names may use.
        people: Whether humans are asked; else agents give the same answers.
    """
    return _Builder(limits or {}, people=people).step(node)


class _Builder:
    def __init__(self, limits: Limits, *, people: bool) -> None:
        self._limits = limits
        self._people = people

    def step(self, node: Node) -> AnyStep:
        match node:
            case Agent():
                return self._agent(node)
            case Human():
                return self._human(node)
            case Seq():
                steps = [self.step(step) for step in node.steps]
                return Pipeline(steps=steps, name=node.name, usage_limits=self._limits.get(node.name))
            case Parallel():
                return Step.parallel(node.name, self._named(node.branches), **self._fanout(node.name, node.fanout))
            case Router():
                branches, options = self._named(node.branches), self._fanout(node.name, node.fanout)
                return Step.dynamic_parallel_branch(
                    node.name, agent_of(node.agent, people=self._people), branches, **options
                )
            case Map():
                options = self._fanout(node.name, node.fanout)
                del options["context_include_keys"], options["field_mapping"]
                source = None if node.takes_input else "items"
                step: AnyStep = Step.map_over(node.name, self.step(node.body), iterable_input=source, **options)  # type: ignore[call-overload, unused-ignore]  # the overloads tell None from a field
                return step
            case Loop():
                return self._loop(node)
            case Conditional():
                return self._conditional(node)
            case Refine():
                return self._refine(node)
            case Sub():
                return self._sub(node)
            case Cached():
                return Step.cached(self.step(node.inner))
            case Rescue():
                return self.step(node.primary).fallback(self.step(node.fallback))

    def _agent(self, node: Agent) -> AnyStep:
        updates = node.shape in ("update", "misfit", "stranger")
        limits = self._limits.get(node.name)
        return Step(
            node.name,
            agent_of(node, people=self._people),
            max_retries=node.retries,
            validators=[_Judge(node)] if node.refusals else [],
            updates_context=updates,
            usage_limits=limits,
        )

    def _human(self, node: Human) -> AnyStep:
        if self._people:
            return Step.human_in_the_loop(node.name, node.message)

        def stand_in(data: Any, context: Any) -> int:  # a cached question depends on the context, and so does this
            return reply(str(data) if node.message is None else node.message)

        return Step.from_callable(stand_in, node.name)

    def _named(self, branches: tuple[tuple[str, Node], ...]) -> dict[str, AnyStep]:
        return {name: self.step(branch) for name, branch in branches}

    def _fanout(self, name: str, fanout: Fanout) -> dict[str, Any]:
        on_failure = BranchFailureStrategy.IGNORE if fanout.ignores_failures else BranchFailureStrategy.PROPAGATE
        return {
            "context_include_keys": fanout.include,
            "merge_strategy": custom_merge if fanout.merge == "custom" else MergeStrategy(fanout.merge),
            "on_branch_failure": on_failure,
            "field_mapping": None if fanout.mapping is None else dict(fanout.mapping),
            "max_concurrency": fanout.bound,
            "usage_limits": self._limits.get(name),
        }

    def _loop(self, node: Loop) -> AnyStep:
        def is_over(output: Any, context: Any) -> bool:
            return weigh(plain(output)) % node.modulus == 0

        mappers: dict[str, Any] = {}
        if node.remaps:
            mappers["iteration_input_mapper"] = lambda output, context, i: weigh((plain(output), i))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # of the builder's own
            mappers["loop_output_mapper"] = lambda output, context: [output]  # pyright: ignore[reportUnknownLambdaType]  # of the builder's own
        step: AnyStep = Step.loop_until(
            node.name,
            self.step(node.body),
            is_over,
            node.max_loops,
            usage_limits=self._limits.get(node.name),
            **mappers,
        )
        return step

    def _conditional(self, node: Conditional) -> AnyStep:
        def key(data: Any, context: Any) -> int:
            return weigh(plain(data)) % node.modulus

        mappers: dict[str, Any] = {}
        if node.remaps:
            mappers["branch_input_mapper"] = lambda data, context: weigh(plain(data))  # pyright: ignore[reportUnknownLambdaType]  # of the builder's own
            mappers["branch_output_mapper"] = lambda output, key, context: [key, output]  # pyright: ignore[reportUnknownLambdaType]  # of the builder's own
        step: AnyStep = Step.branch_on(
            node.name,
            key,
            {position: self.step(branch) for position, branch in enumerate(node.branches)},
            None if node.default is None else self.step(node.default),
            usage_limits=self._limits.get(node.name),
            **mappers,
        )
        return step

    def _refine(self, node: Refine) -> AnyStep:
        def next_request(original: Any, check: RefinementCheck) -> int:
            return weigh((plain(original), check.feedback))

        return Step.refine_until(
            node.name,
            self.step(node.generator),
            self.step(node.critic),
            node.rounds,
            feedback_mapper=next_request if node.remaps else None,
            usage_limits=self._limits.get(node.name),
        )

    def _sub(self, node: Sub) -> AnyStep:
        body = Pipeline.from_step(self.step(node.body))
        limits = self._limits.get(node.name)
        if limits is None:
            return body.as_step(node.name, inherit_context=node.inherits)
        return SubPipelineStep(node.name, body, inherit_context=node.inherits, usage_limits=limits)


def custom_merge(context: Any, branches: Mapping[str, Any]) -> None:
    """Merge as a user might."""
    context.a += sum(branch.a for branch in branches.values())
    context.notes = [*context.notes, *(len(branch.notes) for branch in branches.values())]
    context.tally.update({name: branch.b for name, branch in branches.items()})
