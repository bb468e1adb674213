"""What reserving and settling a call in a shared budget takes in SQLite, beside SQLite itself.

Both sides run in one process, in turns, on files in one folder, in WAL mode with `synchronous=NORMAL`.
A pair is two transactions; beside it stand two bare ones, each of one `UPDATE` and one `INSERT` or `DELETE`.
What is shown is the best of several repeats.
"""

import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import cyclopts

from flujo import Amounts, Budget, Flujo, SQLiteBackend, Step
from flujo.domain.metering import Bound, FixedCall, Meter
from flujo.state.budgets import BudgetChange, BudgetRequest, Settlement
from flujo.state.ownership import Owner

PAIRS = 2_000
REPEATS = 5
_USED = Amounts(Decimal("0.0021"), 300, 1, Decimal("0.8"))
_MOST = Amounts(Decimal("0.0123"), 1_000, 1, Decimal(10))


async def _store_pairs(folder: Path, pairs: int, names: tuple[str, ...]) -> float:
    """Return how long so many pairs take in the store alone."""
    store, owner = SQLiteBackend(folder / "budgets.db", durability="fast"), Owner()
    await store.declare_budgets([Budget(name, usd=10**6, tokens=10**12, per="day") for name in names])
    began_s = time.perf_counter()
    for number in range(pairs):
        request = BudgetRequest(f"{number}", names, _MOST, "run", owner)
        await store.change_budgets(BudgetChange(request=request))
        await store.change_budgets(BudgetChange([Settlement(names, request.call_id, _USED)]))
    took_s = time.perf_counter() - began_s
    await store.close()
    return took_s


async def _run_pairs(folder: Path, pairs: int, budgets: list[Budget]) -> float:
    """Return how long a stored run of one step takes that makes so many calls."""

    async def buy(count: int, *, meter: Meter) -> int:
        call = FixedCall(Bound(_MOST.usd, _MOST.tokens))
        for _ in range(count):
            (await meter.reserve(call)).settle(_USED.usd, _USED.tokens)
        return count

    store = SQLiteBackend(folder / "runs.db", durability="fast")
    runner = Flujo(Step("buy", buy), budgets=budgets, state_backend=store)
    began_s = time.perf_counter()
    await runner.run_async(pairs)
    took_s = time.perf_counter() - began_s
    await store.close()
    return took_s


async def _bare_pairs(folder: Path, pairs: int) -> float:
    """Return how long the bare transactions of so many pairs take."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE windows (id INTEGER PRIMARY KEY, reserved TEXT)")
        connection.execute("CREATE TABLE calls (id INTEGER PRIMARY KEY, amount TEXT)")
        connection.execute("INSERT INTO windows VALUES (1, '')")
        began_s = time.perf_counter()
        for number in range(pairs):
            for statement in ("INSERT INTO calls VALUES (?, '0.0123 1000 1 10')", "DELETE FROM calls WHERE id = ?"):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE windows SET reserved = '0.0123 1000 1 10' WHERE id = 1")
                connection.execute(statement, (number,))
                connection.execute("COMMIT")
        return time.perf_counter() - began_s


def measure(pairs: int = PAIRS, repeats: int = REPEATS) -> dict[str, float]:
    """Return pairs a second by what was done."""
    budget = Budget("team", usd=10**6, per="day")
    works: dict[str, Callable[[Path], Coroutine[Any, Any, float]]] = {
        "two bare transactions": lambda folder: _bare_pairs(folder, pairs),
        "reserve and settle, 1 budget": lambda folder: _store_pairs(folder, pairs, ("team",)),
        "reserve and settle, 3 budgets": lambda folder: _store_pairs(folder, pairs, ("team", "day", "all")),
        "calls of a stored step, no budget": lambda folder: _run_pairs(folder, pairs, []),
        "calls of a stored step, 1 budget": lambda folder: _run_pairs(folder, pairs, [budget]),
    }
    best_s = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            folder = Path(tempfile.mkdtemp(prefix="flujo-bench-"))
            try:
                best_s[name] = min(best_s[name], asyncio.run(work(folder)))
            finally:
                shutil.rmtree(folder)
    return {name: pairs / took_s for name, took_s in best_s.items()}


def main(*, pairs: int = PAIRS, repeats: int = REPEATS) -> None:
    print("shared budgets in SQLite, pairs a second:")
    for name, per_s in measure(pairs, repeats).items():
        print(f"  {name}: {per_s:,.0f}")


if __name__ == "__main__":
    cyclopts.run(main)
