"""What setting aside and settling the cost of one call takes, beside one exact addition under an `asyncio.Lock`.

Both sides run in one process, in turns; what is shown is the least of several repeats, in microseconds of CPU time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

import cyclopts

from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.metering import Bound, FixedCall
from flujo.domain.models import UsageLimits
from flujo.domain.money import ZERO, add_usd

CALLS = 20_000
REPEATS = 5
_CALL = FixedCall(Bound(Decimal("0.0123"), 1_000))
_COST, _TOKENS = Decimal("0.0021"), 300
_LIMITS = UsageLimits(total_cost_usd_limit=1_000_000, total_tokens_limit=10**12)


def _governor(levels: int) -> UsageGovernor:
    """Return the innermost of so many levels, each with limits."""
    governor = UsageGovernor(_LIMITS, label="the run", on_breach=print)
    for _ in range(levels - 1):
        governor = governor.child(_LIMITS, label="a step", cost=ZERO, tokens=0)
    return governor


async def _least_us(work: Callable[[], Awaitable[None]], calls: int, repeats: int) -> float:
    took_s = list[float]()
    for _ in range(repeats):
        began_s = time.process_time()
        for _ in range(calls):
            await work()
        took_s.append(time.process_time() - began_s)
    return min(took_s) / calls * 1e6


async def measure(calls: int = CALLS, repeats: int = REPEATS) -> dict[str, float]:
    """Return microseconds of CPU time by what was done."""
    lock, total = asyncio.Lock(), ZERO

    async def add() -> None:
        nonlocal total
        async with lock:
            total = add_usd(total, _COST)

    def pair_of(governor: UsageGovernor) -> Callable[[], Awaitable[None]]:
        async def pair() -> None:
            (await governor.reserve(_CALL)).settle(_COST, _TOKENS)

        return pair

    return {
        "one addition under a lock": await _least_us(add, calls, repeats),
        "reserve and settle, 1 level of limits": await _least_us(pair_of(_governor(1)), calls, repeats),
        "reserve and settle, 3 levels of limits": await _least_us(pair_of(_governor(3)), calls, repeats),
    }


def main(*, calls: int = CALLS, repeats: int = REPEATS) -> None:
    print("reservations, microseconds of CPU time a call:")
    for name, took_us in asyncio.run(measure(calls, repeats)).items():
        print(f"  {name}: {took_us:.1f}")


if __name__ == "__main__":
    cyclopts.run(main)
