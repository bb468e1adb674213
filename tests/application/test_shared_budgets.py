"""Budgets that runs share: what all of them spend together never passes a limit, and nothing is paid for twice."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RequestUsage

from flujo import (
    Amounts,
    Budget,
    BudgetNotFoundError,
    BudgetStatus,
    ConfigurationError,
    Flujo,
    InMemoryBackend,
    PricingNotConfiguredError,
    SQLiteBackend,
    Step,
    UsageLimitExceededError,
    UsageLimits,
    set_price,
)
from flujo.agents.prices import reset_prices
from flujo.domain.metering import Bound, FixedCall, Meter
from flujo.domain.results import UNCERTAIN
from flujo.state.budgets import BudgetChange, BudgetOutcome, BudgetStore, RunWrite
from flujo.testing import ManualClock
from tests.integration.paid import Paid, ended, paid_step

_TEAM = Budget("team", usd=1)


class _KilledError(BaseException):
    """Stands for the end of the process."""


@dataclass
class Seller:
    """Sells calls that cost so much, of which more is reserved, and keeps a bill."""

    cost: Decimal = Decimal("0.4")
    most: Decimal = Decimal("0.4")
    delay_s: float = 0.001
    bill: list[Decimal] = field(default_factory=list[Decimal])
    now: int = 0
    at_once: int = 0
    sold: list[Any] = field(default_factory=list[Any])
    has_sold: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def total(self) -> Decimal:
        """What all calls cost together."""
        return sum(self.bill, Decimal(0))

    def step(self, name: str = "buy", **settings: Any) -> Step[Any, Any]:
        """Return a step that buys one call."""

        async def buy(data: Any, *, meter: Meter) -> str:
            reservation = await meter.reserve(FixedCall(Bound(self.most, 10)))
            self.bill.append(self.cost)
            self.sold.append(data)
            self.has_sold.set()
            self.now += 1
            self.at_once = max(self.at_once, self.now)
            await asyncio.sleep(self.delay_s)
            self.now -= 1
            reservation.settle(self.cost, 5)
            return f"sold {data}"

        return Step(name, buy, **settings)

    def map(self, at_once: int) -> Any:
        """Return a step that buys many calls, so many at once."""
        return Step.map_over("all", self.step(), max_concurrency=at_once)


def _runner(step: Any, backend: BudgetStore, *budgets: Budget, **settings: Any) -> Flujo[Any, Any]:
    return Flujo(step, budgets=budgets or [_TEAM], state_backend=backend, **settings)


async def _settled(backend: BudgetStore, name: str = "team") -> BudgetStatus:
    """Return how a budget stands, whose calls have all ended."""
    status = await backend.budget_status(name)
    assert status.reserved == Amounts()
    return status


# What is spent


@pytest.mark.parametrize("calls", [1, 5, 20, 100, 1_000])
async def test_calls_at_once_never_pass_a_budget(backend: BudgetStore, calls: int) -> None:
    """Of calls of $0.40 under $1 two are made, however many want to be."""
    seller = Seller()

    result = await ended(_runner(seller.map(calls), backend).run_async(list(range(calls))))

    assert seller.total == result.total_cost == (await _settled(backend)).spent.usd
    assert len(seller.bill) == min(calls, 2)
    assert result.status == ("completed" if calls == 1 else "stopped")


async def test_runs_at_once_share_a_budget(backend: BudgetStore) -> None:
    """Two runners of the same store spend no more together than one."""
    seller = Seller()
    runners = [_runner(seller.map(10), backend) for _ in range(5)]

    results = await asyncio.gather(*(ended(runner.run_async(list(range(10)))) for runner in runners))

    assert seller.total == Decimal("0.8") == sum(result.total_cost for result in results)
    assert (await _settled(backend)).spent.usd == Decimal("0.8")


def test_threads_share_a_budget(tmp_path: Path) -> None:
    """Each with an event loop of its own, on one store object and on two."""
    backends = [SQLiteBackend(tmp_path / "runs.db", durability="fast") for _ in range(2)]
    seller = Seller(cost=Decimal("0.03"), most=Decimal("0.3"))

    def work(backend: SQLiteBackend) -> None:
        asyncio.run(ended(_runner(seller.map(5), backend).run_async(list(range(10)))))

    threads = [threading.Thread(target=work, args=(backends[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    status = asyncio.run(_settled(backends[0]))
    assert seller.total == status.spent.usd
    assert Decimal("0.7") <= status.spent.usd <= 1


async def test_a_budget_can_be_spent_though_reservations_are_ten_times_the_cost(backend: BudgetStore) -> None:
    """Calls wait for reservations to end instead of being refused; 95 % of the budget is spent at least."""
    seller = Seller(cost=Decimal("0.005"), most=Decimal("0.05"), delay_s=0.03)

    await ended(_runner(seller.map(100), backend).run_async(list(range(300))))

    status = await _settled(backend)
    assert Decimal("0.95") <= status.spent.usd == seller.total <= 1
    assert seller.at_once > 3


async def test_calls_that_wait_are_served_in_order(backend: BudgetStore) -> None:
    """Whoever came first is served first."""
    seller = Seller(cost=Decimal("0.01"), most=Decimal("0.7"))

    result = await _runner(seller.map(20), backend).run_async(list(range(20)))

    assert result.status == "completed"
    assert seller.sold == list(range(20))


async def test_a_small_call_does_not_overtake_a_large_one_of_another_run(backend: BudgetStore) -> None:
    """The queue is that of the budget, whatever run a call belongs to."""
    first = Seller(most=Decimal("0.9"), cost=Decimal("0.1"), delay_s=0.05)
    large, small = Seller(most=Decimal("0.8"), cost=Decimal("0.1")), Seller(most=Decimal("0.05"), cost=Decimal("0.01"))
    order = list[str]()

    async def buy(seller: Seller, name: str) -> None:
        await _runner(seller.step(), backend).run_async(name)
        order.append(name)

    tasks = list[asyncio.Task[None]]()
    for seller, name in ((first, "first"), (large, "large"), (small, "small")):
        tasks.append(asyncio.create_task(buy(seller, name)))
        await asyncio.sleep(0.015)
    await asyncio.gather(*tasks)

    assert order[0] == "first"
    assert large.sold == ["large"]
    assert (await _settled(backend)).spent.usd == Decimal("0.21")


async def test_every_kind_of_limit_holds(backend: BudgetStore) -> None:
    """Requests and tokens as dollars do; the error says which one is used up."""
    for budget, bought, left in (
        (Budget("requests", requests=3), 3, "budget 'requests' has 0 requests left to spend, and .* use 1 request"),
        (Budget("tokens", tokens=19), 2, "budget 'tokens' has 9 tokens left to spend, and .* use 10 tokens"),
    ):
        seller = Seller()
        runner = _runner(seller.map(10), backend, budget)
        with pytest.raises(UsageLimitExceededError, match=left):
            await runner.run_async(list(range(10)))
        assert len(seller.bill) == bought
        await _settled(backend, budget.name)


async def test_a_call_is_in_all_its_budgets(backend: BudgetStore) -> None:
    """The smallest one counts, and each has what was spent."""
    seller = Seller()
    budgets = [Budget("small", usd=0.5), Budget("large", usd=5)]

    await ended(_runner(seller.map(10), backend, *budgets).run_async(list(range(10))))

    assert [(await _settled(backend, name)).spent for name in ("small", "large")] == [
        Amounts(Decimal("0.4"), 5, 1, status.spent.seconds)
        for status in [await backend.budget_status(name) for name in ("small", "large")]
    ]


async def test_limits_of_the_run_hold_besides(backend: BudgetStore) -> None:
    """What a limit of the run refuses takes nothing from the budget, and the other way round."""
    seller = Seller()
    limits = UsageLimits(total_cost_usd_limit=0.5)

    with pytest.raises(UsageLimitExceededError, match="the run has") as error:
        await _runner(seller.map(10), backend, Budget("team", usd=5), usage_limits=limits).run_async(list(range(10)))

    assert error.value.budget is None
    assert (await _settled(backend)).spent.usd == Decimal("0.4")


async def test_a_new_window_begins_with_nothing_spent() -> None:
    """A run that was stopped goes on the next day; calls count for the day on which they began."""
    clock = ManualClock(datetime(2026, 11, 25, 22, 59, tzinfo=UTC))
    backend = InMemoryBackend(clock=clock)
    seller = Seller()
    budget = Budget("team", usd=1, per="day", timezone="Europe/Berlin")
    runner = _runner(seller.map(1), backend, budget)
    with pytest.raises(UsageLimitExceededError, match=r"budget 'team' of 2026-11-25 has \$0.2 left"):
        await runner.run_async([1, 2, 3, 4], run_id="run")

    clock.advance(120)
    result = await runner.run_async([], run_id="run")

    assert result.output == [f"sold {number}" for number in (1, 2, 3, 4)]
    status = await backend.budget_status("team")
    assert (status.window, status.spent.usd, seller.total) == ("2026-11-26", Decimal("0.8"), Decimal("1.6"))


# Going on


async def test_a_run_that_was_stopped_goes_on_after_a_top_up(backend: BudgetStore) -> None:
    """Nothing is bought twice."""
    seller = Seller()
    runner = _runner(seller.map(10), backend)
    with pytest.raises(UsageLimitExceededError, match=r"budget 'team' has \$0.2 left to spend, .* use \$0.4") as error:
        await runner.run_async(list(range(5)), run_id="run")
    assert error.value.budget == "team"

    await backend.top_up_budget("team", Amounts(usd=Decimal(1)))
    result = await runner.run_async([], run_id="run")

    assert result.status == "completed"
    assert sorted(seller.sold) == list(range(5))
    assert result.total_cost == seller.total == (await _settled(backend)).spent.usd == 2


async def test_a_call_in_flight_at_a_kill_is_charged_as_uncertain(backend: BudgetStore) -> None:
    """In the run and in the budget alike, once the run goes on; the call is made again."""
    calls = list[int]()

    async def buy(data: Any, *, meter: Meter) -> str:
        reservation = await meter.reserve(FixedCall(Bound(Decimal("0.3"))))
        calls.append(1)
        if len(calls) == 1:
            raise _KilledError
        reservation.settle(Decimal("0.1"), 5)
        return "sold"

    runner = _runner(Step("buy", buy), backend)
    with pytest.raises(_KilledError):
        await runner.run_async("x", run_id="run")
    result = await runner.run_async("x", run_id="run")

    status = await _settled(backend)
    assert result.total_cost == status.spent.usd == Decimal("0.4")
    assert result.step_history[0].metadata_[UNCERTAIN] == status.uncertain.usd == Decimal("0.3")


async def test_a_charge_is_stored_with_the_result_that_it_paid_for(
    backend: BudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step under a budget takes two transactions: one before its call, and one with its result and its charge."""
    if backend.durability == "exit":
        pytest.skip("such a store keeps results at the end of the run only")
    changes = list[tuple[BudgetChange, RunWrite | None]]()
    change_budgets = backend.change_budgets

    async def noted(change: BudgetChange, run: RunWrite | None = None) -> BudgetOutcome:
        changes.append((change, run))
        return await change_budgets(change, run)

    monkeypatch.setattr(backend, "change_budgets", noted)
    seller = Seller()
    await _runner(seller.step() >> seller.step("again"), backend).run_async("x")

    kinds = [
        [
            "reserve" if change.request else "",
            "settle" if change.settlements else "",
            *[entry.kind for entry in (run.change.entries if run else ())],
        ]
        for change, run in changes
    ]
    assert kinds == [["reserve", "", "held"], ["", "settle", "done"]] * 2


async def test_a_finished_run_spends_nothing_when_it_is_asked_for_again(backend: BudgetStore) -> None:
    """Its result comes from the store, also if the budget is used up."""
    seller = Seller(cost=Decimal(1), most=Decimal(1))
    runner = _runner(seller.step(), backend)
    first = await runner.run_async("x", run_id="run")

    again = await runner.run_async("x", run_id="run")

    assert (again.output, again.total_cost) == (first.output, first.total_cost)
    assert (await _settled(backend)).spent.usd == 1


async def test_a_run_that_is_cancelled_while_it_waits_leaves_the_queue(backend: BudgetStore) -> None:
    """Its call is not made, and others are served."""
    slow, seller = Seller(most=Decimal(1), cost=Decimal("0.1"), delay_s=0.2), Seller()
    running = asyncio.create_task(_runner(slow.step(), backend).run_async("slow"))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(_runner(seller.step(), backend).run_async("waits"))
    await asyncio.sleep(0.05)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await running
    await _runner(seller.step(), backend).run_async("later")

    assert seller.sold == ["later"]
    assert (await _settled(backend)).spent.usd == Decimal("0.5")


async def test_a_call_that_is_cancelled_is_charged_in_full(backend: BudgetStore) -> None:
    """Nobody knows what it has cost."""
    seller = Seller(most=Decimal("0.3"), delay_s=60)
    running = asyncio.create_task(_runner(seller.step(), backend).run_async("x"))
    await seller.has_sold.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    status = await _settled(backend)
    assert status.spent.usd == status.uncertain.usd == Decimal("0.3")


# What cannot be reserved


async def test_a_function_that_reports_its_cost_afterwards_is_charged(backend: BudgetStore) -> None:
    """The budget is checked after each of its calls; the one that passes it is in the history."""
    steps = paid_step("one", 0.6) >> paid_step("two", 0.6) >> paid_step("three", 0.6)

    with pytest.raises(
        UsageLimitExceededError, match=r"budget 'team' passed its limit of \$1: \$1.2, .* spent"
    ) as error:
        await _runner(steps, backend).run_async("x")

    assert error.value.budget == "team"
    assert [step.name for step in error.value.result.step_history] == ["one", "two"]
    status = await _settled(backend)
    assert (status.spent.usd, status.spent.requests) == (Decimal("1.2"), 2)


async def test_a_budget_that_is_passed_already_lets_nothing_start(backend: BudgetStore) -> None:
    """The run is stopped before its first step, and goes on after a top-up."""
    await ended(_runner(paid_step("dear", 3), backend).run_async("x"))
    calls = list[str]()

    async def note(data: str) -> Paid:
        calls.append(data)
        return Paid("noted", 0.1)

    runner = _runner(Step("note", note), backend)
    with pytest.raises(UsageLimitExceededError, match=r"budget 'team' has passed its limit of \$1: \$3, "):
        await runner.run_async("x", run_id="run")
    assert calls == []

    await backend.top_up_budget("team", Amounts(usd=Decimal(5)))
    assert (await runner.run_async("x", run_id="run")).success


async def test_a_provider_that_bills_more_than_was_reserved_passes_the_budget(backend: BudgetStore) -> None:
    """The truth is recorded, what was paid for is kept, and nothing more starts."""
    seller = Seller(cost=Decimal("1.5"), most=Decimal("0.5"))

    result = await ended(_runner(seller.step() >> seller.step("again"), backend).run_async("x"))

    assert [(step.name, step.status, step.output) for step in result.step_history] == [("buy", "completed", "sold x")]
    assert (await _settled(backend)).spent.usd == Decimal("1.5")


async def test_an_attempt_with_a_bound_is_reserved(backend: BudgetStore) -> None:
    """`max_cost_usd` of a step is what it takes from the budget while it runs."""
    seen = list[Decimal]()

    async def look(data: str) -> Paid:
        seen.append((await backend.budget_status("team")).reserved.usd)
        return Paid("done", 0.2)

    result = await _runner(Step("look", look, max_cost_usd=0.7), backend).run_async("x")

    assert seen == [Decimal("0.7")]
    assert result.total_cost == (await _settled(backend)).spent.usd == Decimal("0.2")


# Models


@pytest.fixture
def priced() -> Iterator[None]:
    """Let the model of these tests have a price: $0.01 for an input token, $0.001 for an output token."""
    set_price("function:m", input_usd_per_mtok=0, output_usd_per_mtok=1_000)
    yield
    reset_prices()


def _model(answer: Callable[[Any], Any] | None = None) -> Agent[None, str]:
    async def respond(_: Any, info: Any) -> ModelResponse:
        if answer is not None:
            await answer(info)
        return ModelResponse([TextPart("yes")], usage=RequestUsage(input_tokens=1, output_tokens=10))

    return Agent(FunctionModel(respond, model_name="m"), model_settings={"max_tokens": 1_000})


@pytest.mark.usefixtures("priced")
async def test_a_request_gets_fewer_tokens_if_a_budget_is_short(backend: BudgetStore) -> None:
    """As many as are affordable; the answer costs less, and the next one gets more than it would have."""
    asked = list[int]()

    async def note(info: Any) -> None:
        asked.append(info.model_settings["max_tokens"])

    await _runner(Step("ask", _model(note)), backend, Budget("team", usd=0.3)).run_async("x")

    assert asked == [300]
    assert (await _settled(backend)).spent.usd == Decimal("0.01")


async def test_a_model_without_a_price_is_refused_under_a_budget_in_dollars(backend: BudgetStore) -> None:
    """Before the run begins; under one in requests it is not."""
    with pytest.raises(PricingNotConfiguredError, match="function:m"):
        await _runner(Step("ask", _model()), backend).run_async("x")

    result = await _runner(Step("ask", _model()), backend, Budget("few", requests=2)).run_async("x")

    assert result.output == "yes"
    assert (await _settled(backend, "few")).spent.requests == 1


@pytest.mark.usefixtures("priced")
async def test_a_request_may_take_no_longer_than_a_budget_has_seconds(backend: BudgetStore) -> None:
    """It is cut short when they are over, and charged in full: nobody knows what it has cost."""

    async def take_long(_: Any) -> None:
        await asyncio.sleep(60)

    step = Step("ask", _model(take_long), max_retries=0)
    result = await _runner(step, backend, Budget("brief", seconds=1)).run_async("x")

    assert result.status == "failed"
    assert "took longer than the 1.000 s that a budget lets it take" in (result.step_history[0].feedback or "")
    status = await _settled(backend, "brief")
    assert status.spent.seconds == status.uncertain.seconds == 1
    with pytest.raises(UsageLimitExceededError, match="budget 'brief' has 0 seconds left to spend"):
        await _runner(step, backend, Budget("brief", seconds=1)).run_async("x")


async def test_an_attempt_may_take_no_longer_than_a_budget_has_seconds(backend: BudgetStore) -> None:
    """An attempt that is reserved as a whole is ended when its time is over."""

    async def take_long(_: Any) -> Paid:
        await asyncio.sleep(60)
        return Paid("never", 0.1)

    step = Step("wait", take_long, max_cost_usd=0.3, max_retries=0)
    result = await _runner(step, backend, Budget("brief", seconds=1)).run_async("x")

    assert result.step_history[0].feedback == "timed out after 1 s"
    assert (await _settled(backend, "brief")).uncertain == Amounts(Decimal("0.3"), 0, 1, Decimal(1))


@pytest.mark.usefixtures("priced")
async def test_seconds_that_a_request_takes_are_counted(backend: BudgetStore) -> None:
    """In thousandths, rounded up; a step without a timeout reserves ten minutes."""
    reserved = list[Decimal]()

    async def look(_: Any) -> None:
        reserved.append((await backend.budget_status("day")).reserved.seconds)
        await asyncio.sleep(0.02)

    await _runner(Step("ask", _model(look)), backend, Budget("day", seconds=86_400)).run_async("x")

    assert reserved == [600]
    assert Decimal("0.02") <= (await _settled(backend, "day")).spent.seconds < 5


# Runners that are steps


async def test_a_runner_that_is_a_step_brings_its_budgets_along(backend: BudgetStore) -> None:
    """Its own steps have them besides those of the outer run, which keeps them; other steps do not."""
    seller = Seller(cost=Decimal("0.1"), most=Decimal("0.1"))
    inner = Flujo(seller.step("inner"), budgets=[Budget("inner", usd=1)])
    outer = _runner(seller.step("outer") >> inner.as_step("within"), backend)

    await outer.run_async("x")

    assert [budget.name for budget in outer.budgets] == ["team", "inner"]
    assert (await _settled(backend)).spent.usd == Decimal("0.2")
    assert (await _settled(backend, "inner")).spent.usd == Decimal("0.1")


# Mistakes


def _with(**settings: Any) -> Flujo[Any, Any]:
    return Flujo(Seller().step(), **settings)


async def test_budgets_need_a_store() -> None:
    """The error says so before anything is run."""
    with pytest.raises(ConfigurationError, match="budgets are kept in a store, and the runner has no store"):
        await _with(budgets=[_TEAM]).run_async("x")


async def test_a_runner_that_is_a_step_keeps_its_budgets_where_the_run_does() -> None:
    """Another store would count something else."""
    inner = _with(budgets=[_TEAM], state_backend=InMemoryBackend())
    outer = Flujo(inner.as_step("within"), state_backend=InMemoryBackend())

    with pytest.raises(ConfigurationError, match="'within' keeps its budgets in another store than the run"):
        await outer.run_async("x")


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (5, "budgets is 5; give a list"),
        ([5], "a budget is 5; give Budget"),
        ([_TEAM, Budget("team", usd=2)], "two budgets are called 'team' and differ"),
    ],
)
def test_what_is_no_list_of_budgets_is_refused(budgets: Any, message: str) -> None:
    """At once, and by name."""
    with pytest.raises(ConfigurationError, match=message):
        _with(budgets=budgets)


async def test_a_budget_that_is_not_there_is_an_error(backend: BudgetStore) -> None:
    """It names the budget."""
    with pytest.raises(BudgetNotFoundError, match="no budget 'nobody' is stored here") as error:
        await backend.budget_status("nobody")
    assert error.value.name == "nobody"
