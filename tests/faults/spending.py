"""A process of its own that asks a model under a shared budget, in one run after the other, until it is refused."""

import asyncio
import multiprocessing
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from flujo import (
    Budget,
    Flujo,
    PipelineResult,
    PostgresBackend,
    SQLiteBackend,
    Step,
    UsageLimitExceededError,
    set_price,
)
from flujo.state.budgets import BudgetStore

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.faults.spending", "flujo.agents.metered_model"])

MAX_TOKENS = 100


def open_store(database: Path | str) -> BudgetStore:
    """Open a store: a file of SQLite's, or a connection string of Postgres'."""
    if isinstance(database, Path):
        return SQLiteBackend(database, durability="fast")
    return PostgresBackend(database, durability="fast", lease_s=2)


async def spend(
    database: Path | str, base_url: str, budgets: Sequence[Budget], run_ids: Sequence[str], at_once: int
) -> list[PipelineResult[Any]]:
    """Do runs one after the other, each of many requests at once, until all are done or one is refused."""
    set_price("openai:model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    store = open_store(database)
    results = list[PipelineResult[Any]]()
    async with AsyncOpenAI(base_url=base_url, api_key="test") as client:
        agent = Agent(
            OpenAIChatModel("model", provider=OpenAIProvider(openai_client=client)),
            model_settings={"max_tokens": MAX_TOKENS},
        )
        ask = Step.parallel("all", {f"{number}": Step(f"{number}", agent) for number in range(at_once)})
        runner = Flujo(ask >> Step("last", agent), budgets=budgets, state_backend=store)
        for run_id in run_ids:
            try:
                results.append(await runner.run_async("go", run_id=run_id))
            except UsageLimitExceededError as stopped:
                results.append(stopped.result)
    await store.close()
    return results


def start(
    database: Path | str, base_url: str, budgets: Sequence[Budget], run_ids: Sequence[str], at_once: int
) -> ForkServerProcess:
    """Start a process that does this."""
    process = _SERVER.Process(target=_spend, args=(database, base_url, budgets, run_ids, at_once))
    process.start()
    return process


def _spend(
    database: Path | str, base_url: str, budgets: Sequence[Budget], run_ids: Sequence[str], at_once: int
) -> None:
    asyncio.run(spend(database, base_url, budgets, run_ids, at_once))
