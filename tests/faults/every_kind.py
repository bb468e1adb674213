"""A pipeline with every kind of step, whose effects are counted outside of it."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import Field

from flujo import (
    BranchFailureStrategy,
    Flujo,
    InMemoryCache,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    RefinementCheck,
    Step,
)
from flujo.state.backend import StateBackend

COST_USD = 0.01
PRICE = Decimal(repr(COST_USD))


class Notes(PipelineContext):
    """What the steps of the pipeline share."""

    words: list[str] = Field(default_factory=list[str])
    counts: dict[str, int] = Field(default_factory=dict[str, int])
    items: list[int] = Field(default_factory=lambda: [1, 2, 3])
    last: int = 0


@dataclass(slots=True)
class Answer:
    """An answer that costs something."""

    output: Any
    cost_usd: float = COST_USD
    token_counts: int = 1


@dataclass(slots=True)
class Effects:
    """What the agents did, by a name of the effect and its input.

    Attributes:
        done: How often each effect happened.
        failures: Effects that fail, by name, and how often they do before they succeed.
    """

    done: Counter[str] = field(default_factory=Counter[str])
    failures: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def cost(self) -> Decimal:
        """US dollars of all effects."""
        return self.done.total() * PRICE

    def happen(self, name: str, data: object) -> None:
        """Count an effect, and let it fail if it has to."""
        self.done[f"{name}({data})"] += 1
        if self.failures.get(name, 0) >= self.done[f"{name}({data})"]:
            raise ConnectionError(f"{name} is down")

    def add(self, number: int, name: str) -> Step[Any, Any]:
        """Return a step that adds a number, for money."""

        async def add(data: Any) -> Any:
            self.happen(name, data)
            return Answer(int(data) + number)

        return Step(name, add, max_retries=2)

    def note(self, name: str) -> Step[Any, Any]:
        """Return a step that writes what it gets to the context, and gives it on."""

        async def note(data: Any, *, context: Notes) -> Any:
            self.happen(name, data)
            context.words.append(f"{name}:{data}")
            context.counts[name] = context.counts.get(name, 0) + 1
            context.scratchpad.setdefault("seen", []).append(data)
            context.last = int(data)
            return Answer(data)

        return Step(name, note)

    def fail(self, name: str) -> Step[Any, Any]:
        """Return a step that fails, after it was paid."""

        async def fail(data: Any) -> Any:
            self.happen(name, data)
            error = ValueError(f"{name} never works")
            error.cost_usd = COST_USD  # type: ignore[attr-defined]  # an error may report its cost
            raise error

        return Step(name, fail, max_retries=0)


def pipeline_of_every_kind(effects: Effects, *, asks: bool) -> Pipeline[Any, Any]:
    """Return a pipeline with every kind of step, nested in each other.

    Args:
        effects: Counts what the agents do.
        asks: Whether people are asked; otherwise agents answer in their place.
    """

    def question(name: str) -> Step[Any, Any] | Any:
        if asks:
            return Step.human_in_the_loop(name, "go on?", input_schema=int)

        async def answer(_data: Any) -> int:
            return ANSWER

        return Step(name, answer)

    async def route(data: Any) -> list[str]:
        effects.happen("route", data)
        return ["left", "right"]

    async def judge(draft: Any) -> RefinementCheck:
        effects.happen("judge", draft)
        return RefinementCheck(is_complete=int(draft) % 2 == 0, feedback="odd")

    async def draft(request: Any) -> Any:
        value = request["original_input"] + (0 if request["feedback"] is None else 1)
        effects.happen("draft", value)
        return Answer(value)

    loop = Step.loop_until(
        "loop", effects.add(1, "increment") >> effects.note("note"), lambda value, _: value >= 5, max_loops=10
    )
    parallel = Step.parallel(
        "parallel",
        {
            "a": effects.add(1, "a") >> effects.note("note a"),
            "b": effects.note("note b") >> question("ask b"),
            "c": Step.loop_until("inner loop", effects.note("note c") >> effects.add(1, "c"), lambda v, _: v >= 8),
        },
        merge_strategy=MergeStrategy.CONTEXT_UPDATE,
    )
    ignoring = Step.parallel(
        "ignoring",
        {"good": effects.add(1, "good"), "bad": effects.fail("bad")},
        on_branch_failure=BranchFailureStrategy.IGNORE,
    )
    branch = Step.branch_on(
        "branch",
        lambda value, _: "big" if value > 3 else "small",
        {"big": effects.note("big"), "small": effects.fail("small")},
    )
    mapped = Step.map_over("map", effects.add(10, "item"), iterable_input="items", max_concurrency=2)
    router = Step.dynamic_parallel_branch(
        "router",
        route,
        {"left": effects.add(1, "left"), "right": effects.add(2, "right")},
    )
    refine = Step.refine_until("refine", Step("draft", draft), Step("judge", judge))
    walled = (effects.note("walled") >> question("ask walled")).as_step("wall", inherit_context=False)
    inner = (effects.note("inner") >> effects.add(1, "inner add")).as_step("inner")
    rescued = effects.fail("primary").fallback(effects.add(100, "fallback") >> question("ask fallback"))

    def number_of(result: Any) -> int:
        return int(result.output)

    def size_of(outputs: Any) -> int:
        return len(outputs)

    return Pipeline(
        steps=[
            effects.add(1, "first"),
            loop,
            parallel,
            Step("size", size_of),
            ignoring,
            Step("size again", size_of),
            effects.add(2, "unreliable"),
            branch,
            mapped,
            Step("sum", sum),
            router,
            Step("size of routes", size_of),
            refine,
            Step.cached(effects.add(1, "cached"), InMemoryCache()),
            inner,
            Step("number", number_of),
            walled,
            Step("walled number", number_of),
            rescued,
            effects.note("last"),
        ]
    )


ANSWER = 6
"""What people, and the agents in their place, answer."""

QUESTIONS = 3
"""How often people are asked."""


def runner_of(effects: Effects, backend: StateBackend | None, *, asks: bool = True) -> Flujo[Any, Any]:
    """Return a runner of the pipeline, with a store."""
    return Flujo(pipeline_of_every_kind(effects, asks=asks), context_model=Notes, state_backend=backend)
