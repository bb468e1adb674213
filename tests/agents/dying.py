"""A process of its own that asks models under a limit, in a stored run, until it is killed."""

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from flujo import (
    Flujo,
    PipelineResult,
    PostgresBackend,
    SQLiteBackend,
    Step,
    UsageLimitExceededError,
    UsageLimits,
    set_price,
)

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.agents.dying", "flujo.agents.metered_model"])

MAX_TOKENS = 100


async def ask_all(database: Path | str, base_url: str, limit_usd: float, steps: int) -> PipelineResult[Any]:
    """Run so many steps, one of them with two branches, to the end or to the limit.

    Args:
        database: A file of SQLite's, or a connection string of Postgres'.
        base_url: Where the provider is.
        limit_usd: What the run may spend.
        steps: How many steps ask the model one after the other.
    """
    set_price("openai:model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    backend = SQLiteBackend(database) if isinstance(database, Path) else PostgresBackend(database, lease_s=0.5)
    async with AsyncOpenAI(base_url=base_url, api_key="test") as client:
        model = OpenAIChatModel("model", provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, model_settings={"max_tokens": MAX_TOKENS})
        pipeline: Any = Step.parallel("both", {name: Step(name, agent) for name in "ab"})
        for number in range(steps):
            pipeline = pipeline >> Step(f"step {number}", agent)
        runner = Flujo(pipeline, state_backend=backend, usage_limits=UsageLimits(total_cost_usd_limit=limit_usd))
        try:
            result: PipelineResult[Any] = await runner.run_async("go", run_id="run")
        except UsageLimitExceededError as stopped:
            result = stopped.result
        await backend.close()
        return result


async def look_things_up(
    database: Path | str, base_url: str, effects: Path, kill_at: str | None
) -> PipelineResult[Any]:
    """Run one step whose agent calls a tool again and again, in a process that kills itself.

    Args:
        database: A file of SQLite's, or a connection string of Postgres'.
        base_url: Where the provider is.
        effects: The file that the tool appends to.
        kill_at: `before 2` or `after 2` the second call of the tool has its effect; `None` for never.
    """
    set_price("openai:model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    backend = SQLiteBackend(database) if isinstance(database, Path) else PostgresBackend(database, lease_s=0.5)
    async with AsyncOpenAI(base_url=base_url, api_key="test") as client:
        agent = Agent(OpenAIChatModel("model", provider=OpenAIProvider(openai_client=client)))

        @agent.tool_plain
        def look(number: int) -> dict[str, int]:
            _die_at(f"before {number}", kill_at)
            with effects.open("a") as file:
                file.write(f"{number}\n")
            _die_at(f"after {number}", kill_at)
            return {"found": number}

        runner: Flujo[Any, Any] = Flujo(
            Step("look", agent), state_backend=backend, usage_limits=UsageLimits(total_cost_usd_limit=2)
        )
        result = await runner.run_async("go", run_id="run")
        await backend.close()
        return result


def _die_at(moment: str, kill_at: str | None) -> None:
    if moment == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


def start_looking(database: Path | str, base_url: str, effects: Path, kill_at: str | None) -> ForkServerProcess:
    """Start a process that does this."""
    process = _SERVER.Process(target=_look, args=(database, base_url, effects, kill_at))
    process.start()
    return process


def _look(database: Path | str, base_url: str, effects: Path, kill_at: str | None) -> None:
    asyncio.run(look_things_up(database, base_url, effects, kill_at))


def start(database: Path | str, base_url: str, limit_usd: float, steps: int) -> ForkServerProcess:
    """Start a process that does this."""
    process = _SERVER.Process(target=_work, args=(database, base_url, limit_usd, steps))
    process.start()
    return process


def _work(database: Path | str, base_url: str, limit_usd: float, steps: int) -> None:
    asyncio.run(ask_all(database, base_url, limit_usd, steps))
