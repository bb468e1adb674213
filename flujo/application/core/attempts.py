"""What the attempts at one agent step came to so far, and the meter of all that runs within them."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flujo.application.core.call_meter import CallMeter
from flujo.application.core.frame import ExecutionFrame
from flujo.domain.agents import Answer
from flujo.domain.metering import MeteredCall
from flujo.domain.money import ZERO, add_usd, subtract_usd
from flujo.domain.results import CALLS, StepResult, told_of_calls

_ANSWER = "answer"  # what it is kept under


@dataclass(slots=True)
class Attempts:
    """The attempts at the step of a frame.

    Attributes:
        frame: Where execution stands.
        loop: The event loop that the step runs in.
        task: The task that it runs in, if a limit may cut it short; its own charges do not.
        made: How many there were.
        cost: US dollars that answers reported and nothing metered.
        tokens: Tokens that they reported.
        output: The newest output.
        metadata: What is to be said of the step.
        metered: The meter, if anything was metered.
        is_over: Whether the step has ended, so that it pays for nothing more.
    """

    frame: ExecutionFrame[Any]
    loop: asyncio.AbstractEventLoop
    task: "asyncio.Task[Any] | None"
    made: int = 0
    cost: Decimal = ZERO
    tokens: int = 0
    output: Any = None
    metadata: dict[str, Any] | None = None
    metered: CallMeter | None = None
    is_over: bool = False

    @property
    def meter(self) -> CallMeter:
        """The meter of all that runs within the step; made when it is first asked for."""
        if self.metered is None:
            self.metered = CallMeter(self.frame, self.task)
        return self.metered

    async def charge(self, cost: Decimal, tokens: int, seconds: float) -> None:
        """Charge what nothing has reserved; see `PayingStep`."""
        await self.meter.charge(cost, tokens, seconds)

    def recall(self, key: str) -> tuple[Any, MeteredCall] | None:
        """Return what a call of a run within the step gave, and was charged; see `PayingStep`."""
        return self.meter.recall_charged(key)

    def covers(self, location: object, budget: str) -> bool:
        """Tell whether what the step pays is counted in a budget; see `PayingStep`."""
        scope = self.frame.scope
        if scope.budgets is not None and budget in scope.budgets.names:
            return scope.budgets.desk.store.location == location
        return scope.payer is not None and scope.payer.covers(location, budget)

    def close(self) -> None:
        """Let the step pay for nothing more."""
        self.is_over = True
        if self.metered is not None:
            self.metered.is_over = True

    def add(self, answer: Answer) -> None:
        """Count an attempt, with what its answer reported; what was metered is known."""
        self.made += 1
        if answer.cost:
            self.cost = add_usd(self.cost, answer.cost)
        self.tokens += answer.tokens
        if answer.failure is None or answer.output is not None:  # what was paid for is kept
            self.output = answer.output

    def begin(self) -> None:
        """Let what was called so far belong to the step: it is not called again for another attempt."""
        if self.metered is not None:
            self.metered.begin_attempts()

    def end_calls(self) -> None:
        """Charge what is reserved still by what has come to its end."""
        if self.metered is not None:
            self.metered.end()

    def recall_answer(self, messages: list[Any] | None) -> bool:
        """Let an answer that was not judged when the run ended be the newest output; tell whether there is one.

        Args:
            messages: The conversation, to which it adds what was said; `None` if there is none.
        """
        durable = self.frame.scope.durable
        kept = None if durable is None else durable.recall_answer(self.frame.path, _ANSWER)
        if kept is None:
            return False
        (self.output, said), calls = kept
        self.made += 1
        for call in calls:
            self.meter.note_recalled(call)
        if messages is not None:
            messages[:] = said
        return True

    async def keep_answer(self, messages: list[Any] | None) -> None:
        """Keep the newest output, which is not judged yet, if it was paid for and would have to be paid again."""
        if self.metered is not None:
            await self.metered.keep_answer(_ANSWER, [self.output, messages])

    def result(self, **ending: Any) -> StepResult:
        """Return what the step came to."""
        cost, tokens, metadata = self.cost, self.tokens, self.metadata
        if (meter := self.metered) is not None:
            cost, tokens = add_usd(cost, meter.cost), tokens + meter.tokens
            if meter.calls:
                metadata = {**(metadata or {}), **told_of_calls([*meter.calls, *_rest(meter.calls, cost, tokens)])}
        return StepResult(
            self.frame.step.name,
            self.output,
            attempts=self.made,
            cost=cost,
            token_counts=tokens,
            metadata_=metadata,
            **ending,
        )

    def spent(self, feedback: str | None) -> StepResult:
        """Return what the attempts came to that were made, with more to come, but for what the store has of the step.

        Args:
            feedback: What the next attempt is to be told.
        """
        spent = self.result(feedback=feedback)
        if self.metered is not None and (known := self.metered.of_step):
            calls = list(spent.calls)
            for call in known:
                spent.cost, spent.token_counts = subtract_usd(spent.cost, call.cost), spent.token_counts - call.tokens
                if call in calls:
                    calls.remove(call)
            spent.metadata_[CALLS] = calls
        return spent


def _rest(calls: list[MeteredCall], cost: Decimal, tokens: int) -> list[MeteredCall]:
    """Return what was charged besides some calls, as a call, so that all of them add up."""
    for call in calls:
        cost, tokens = subtract_usd(cost, call.cost), tokens - call.tokens
    return [MeteredCall(None, cost, tokens)] if cost or tokens else []
