"""A workflow with every kind of step, which keeps account of what it begins and ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from flujo import AppResources, BaseStep, Flujo, HookPayload, Pipeline, RefinementCheck, Step
from tests.integration.paid import Paid


async def next_turn() -> None:
    """Let the event loop go on to the others once: a place to be cancelled at."""
    await asyncio.sleep(0)


@dataclass
class Account:
    """What was begun, and what was ended."""

    entered: int = 0
    left: int = 0
    called: int = 0
    returned: int = 0
    heard: list[HookPayload] = field(default_factory=list[HookPayload])
    on_call: Callable[[int, Any], None] = lambda number, answer: None
    """Called with the number of a call and what the agent is about to answer; may raise instead."""

    def is_settled(self) -> bool:
        """Tell whether everything that was begun was ended, once."""
        return (self.entered, self.called) == (self.left, self.returned)

    async def listen(self, payload: HookPayload) -> None:
        """Hear an event, and take a while over it."""
        self.heard.append(payload)
        await next_turn()

    async def listen_inside(self, payload: HookPayload) -> None:
        """Hear an event of the runner within the workflow, and take a while over it."""
        await next_turn()

    def step(self, name: str, answer: Callable[[Any], Any] | None = None, **options: Any) -> Step[Any, Any]:
        """Return a step that takes a while, costs a cent, and gives its input back or what `answer` makes of it."""

        async def agent(data: Any) -> Any:
            self.called += 1
            number = self.called
            try:
                await next_turn()
                output = data if answer is None else answer(data)
                self.on_call(number, output)
                return Paid(output, Decimal("0.01"), 1)
            finally:
                self.returned += 1

        return Step(name, agent, **options)

    def stream(self, name: str) -> Step[Any, Any]:
        """Return a step that streams three letters."""

        async def agent(data: Any) -> AsyncIterator[str]:
            self.called += 1
            try:
                self.on_call(self.called, "abc")
                for letter in "abc":
                    await next_turn()
                    yield letter
            finally:
                self.returned += 1

        return Step(name, agent)

    def resources(self) -> "SharedResources":
        """Return resources that this account counts."""
        return SharedResources(account=self)


class SharedResources(AppResources):
    """Resources that take a while to enter and to leave."""

    account: Account

    async def __aenter__(self) -> None:
        """Enter."""
        await next_turn()
        self.account.entered += 1

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        self.account.left += 1
        await next_turn()


def _fail(data: Any) -> Any:
    raise ValueError("broken")


def _both(data: Any) -> list[str]:
    return ["left", "right"]


def _items(data: Any) -> list[int]:
    return [1, 2, 3, 4, 5]


def _accept(draft: Any) -> RefinementCheck:
    return RefinementCheck(is_complete=True)


def _is_two(output: Any, context: Any) -> bool:
    return bool(output == 2)


def _go_left(data: Any, context: Any) -> str:
    return "left"


def every_kind(account: Account) -> Pipeline[Any, Any]:
    """Return a pipeline of all kinds of step, apart from those that wait for a person; it ends with a stream."""
    pair: dict[str, BaseStep[Any, Any]] = {
        "left": account.step("left 1") >> account.step("left 2"),
        "right": account.step("right"),
    }
    steps: list[BaseStep[Any, Any]] = [
        account.step("timed", timeout_s=60),
        Step[Any, Any]("fails", _fail, max_retries=1).fallback(account.step("rescue")),
        Step.parallel("parallel", {**pair, "nested": Step.parallel("nested", pair)}),
        Step.gather("gather", ["left", "right"]),
        account.step("zero", lambda data: 0),
        Step.loop_until("loop", account.step("iteration", lambda data: data + 1), _is_two, max_loops=3),
        Step.refine_until("refine", account.step("draft"), account.step("critic", _accept)),
        Step.branch_on("branch", _go_left, pair),
        account.step("items", _items),
        Step.map_over("map", account.step("item"), max_concurrency=2),
        Step.dynamic_parallel_branch("router", account.step("choose", _both).agent, pair),
        Step.cached(account.step("cached")),
        Pipeline.from_step(account.step("walled")).as_step("wall", inherit_context=False),
        Flujo(account.step("inside"), resources=account.resources(), hooks=[account.listen_inside]).as_step("runner"),
        account.stream("stream"),
    ]
    return Pipeline(steps=steps)
