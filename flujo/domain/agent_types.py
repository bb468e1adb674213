"""What may be an agent, as type checkers see it: one alias for every way an agent's answer becomes a step's output.

A type checker cannot tell from one signature that an async function gives what it returns when awaited, so whatever
takes an agent has an overload for each alias, in the order in which they stand here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Concatenate, Protocol, TypeVar

from flujo.domain.agents import AsyncAgent, StreamAgent

InT = TypeVar("InT")
OutT = TypeVar("OutT")
OutT_co = TypeVar("OutT_co", covariant=True)


class _HasOutput(Protocol[OutT_co]):
    @property
    def output(self) -> OutT_co: ...


class _HasCost(_HasOutput[OutT_co], Protocol[OutT_co]):
    @property
    def cost_usd(self) -> Any: ...


class _HasTokens(_HasOutput[OutT_co], Protocol[OutT_co]):
    @property
    def token_counts(self) -> Any: ...


class _HasUsage(_HasOutput[OutT_co], Protocol[OutT_co]):
    @property
    def usage(self) -> Any: ...


CostReport = _HasCost[OutT] | _HasTokens[OutT] | _HasUsage[OutT]
"""An answer beside what it cost; the step's output is the answer's `output`."""

ReportingAgent = (
    AsyncAgent[InT, CostReport[OutT]]
    | Callable[Concatenate[InT, ...], Awaitable[CostReport[OutT]]]
    | Callable[Concatenate[InT, ...], CostReport[OutT]]
)
"""Gives answers that say what they cost."""

AnsweringAgent = AsyncAgent[InT, OutT] | Callable[Concatenate[InT, ...], Awaitable[OutT]]
"""An object with `async def run`, or an async function."""

StreamingAgent = StreamAgent[InT, OutT] | Callable[Concatenate[InT, ...], AsyncIterator[OutT]]
"""An object with `stream`, or an async generator function."""

PlainAgent = Callable[[InT], OutT] | Callable[Concatenate[InT, ...], OutT]
"""A plain function; the first form is there for a `lambda`, which mypy takes for nothing else."""

AnyAgent = AnsweringAgent[InT, Any] | StreamingAgent[InT, Any] | PlainAgent[InT, Any]
"""Any agent that takes this input, whatever it answers."""
