"""What `Step.cached` stores: values of their own types, written once and read by all."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import Flujo, InMemoryBackend, InMemoryCache, SQLiteCache, Step
from flujo.utils.serialization import (
    register_custom_deserializer,
    register_custom_serializer,
    reset_custom_serializer_registry,
)
from tests.steps.workflows import CENT, Notes, Paid


class Celsius:
    """A type that flujo does not know."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    def __repr__(self) -> str:
        return f"Celsius({self.degrees})"

    __hash__ = None  # type: ignore[assignment]  # it is not hashable


class Draft(BaseModel):
    """A model."""

    text: str
    price: Decimal = Decimal("1.10")


@dataclass
class Point:
    """A dataclass."""

    x: Any


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InMemoryCache | SQLiteCache]:
    """An empty cache of each kind."""
    if request.param == "memory":
        yield InMemoryCache()
        return
    made = SQLiteCache(tmp_path / "cache.db")
    yield made
    asyncio.run(made.close())


@pytest.fixture
def registered() -> Iterator[None]:
    """`Celsius` is registered."""
    register_custom_serializer(Celsius, lambda celsius: celsius.degrees)
    register_custom_deserializer(Celsius, Celsius)
    yield
    reset_custom_serializer_registry()


@pytest.mark.parametrize("value", [Draft(text="a"), Point([(1,), {2}]), {1: Point(Draft(text="\ud800"))}, None])
def test_values_come_back_equal_and_of_the_same_type(cache: Any, value: Any) -> None:
    """Whether or not the step declares what it gives; each hit has its own."""
    flujo = Flujo(Step.cached(Step("make", lambda data: value), cache))

    outputs = [flujo.run("x").output for _ in range(3)]

    assert outputs == [value] * 3
    assert {type(output) for output in outputs} == {type(value)}
    assert value is None or outputs[1] is not outputs[2]


@pytest.mark.usefixtures("registered")
def test_registered_types_are_stored_and_may_be_in_the_key(cache: Any) -> None:
    """In the input, in the context and in what the step gives."""

    async def warm(data: Celsius, *, context: Notes) -> Celsius:
        context.table["last"] = data
        return Celsius(data.degrees + 1)

    flujo = Flujo(Step.cached(Step("warm", warm), cache), context_model=Notes)

    runs = [flujo.run(Celsius(degrees), initial_context_data={"table": {"was": Celsius(0)}}) for degrees in (1, 1, 2)]

    assert [run.step_history[0].metadata_["cache_hit"] for run in runs] == [False, True, False]
    assert [run.output for run in runs] == [Celsius(2), Celsius(2), Celsius(3)]
    assert getattr(runs[1].final_pipeline_context, "table", None) == {"was": Celsius(0), "last": Celsius(1)}


def test_an_unknown_type_is_given_and_not_stored(cache: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the type and the place, once."""
    calls: list[Any] = []

    async def make(data: Any) -> Any:
        calls.append(data)
        return Paid({"now": [Celsius(1)]})

    flujo = Flujo(Step.cached(Step("make", make), cache))

    results = [flujo.run("x") for _ in range(2)]

    assert [(result.output, result.total_cost) for result in results] == [({"now": [Celsius(1)]}, CENT)] * 2
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "output.now[0] is a Celsius" in record.getMessage()


def test_a_damaged_cache_file_fails_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and counts as empty."""
    path = tmp_path / "cache.db"
    path.write_text("no database" * 100)
    flujo = Flujo(Step.cached(Step("shout", str.upper), SQLiteCache(path)))

    assert [flujo.run("x").output, flujo.run("x").output] == ["X", "X"]
    assert "no SQLite file" in caplog.text


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"key": 1}', "x" * 100])
def test_what_others_wrote_is_no_hit(text: str) -> None:
    """A cache may give anything."""

    class Odd(InMemoryCache):
        async def get(self, key: str) -> Any:
            return text

    flujo = Flujo(Step.cached(Step("shout", str.upper), Odd()))

    assert [flujo.run("x").output, flujo.run("x").output] == ["X", "X"]


def test_a_durable_run_counts_what_it_paid_though_others_stored_it_meanwhile() -> None:
    """A run that goes on where its cached step was at work is no hit, and comes to the same total."""
    backend, cache, calls = InMemoryBackend(), InMemoryCache(), list[str]()

    async def first(data: Any) -> Any:
        calls.append("first")
        return Paid(data)

    async def second(data: Any) -> Any:
        calls.append("second")
        if calls.count("second") == 1:
            raise OSError("down")
        return Paid(data)

    cached = Step.cached(Step("first", first, max_retries=0) >> Step("second", second, max_retries=0), cache)
    flujo = Flujo(cached, state_backend=backend)
    failed = flujo.run("x", run_id="one")
    other = Flujo(cached).run("x")

    resumed = flujo.run("x", run_id="one")

    assert (failed.status, other.total_cost) == ("failed", 2 * CENT)
    assert (resumed.status, resumed.total_cost, resumed.step_history[0].metadata_["cache_hit"]) == (
        "completed",
        2 * CENT,
        False,
    )
    assert calls == ["first", "second", "first", "second", "second"]
