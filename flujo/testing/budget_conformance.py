"""What every store of budgets has to do, as tests that any implementation can inherit; see `conformance` for runs."""

import asyncio
import itertools
from dataclasses import replace
from decimal import Decimal

import pytest

from flujo.domain.budgets import AmountLimits, Amounts, Budget
from flujo.exceptions import BudgetNotFoundError, RunOwnedError
from flujo.state.budgets import (
    BudgetCall,
    BudgetChange,
    BudgetOutcome,
    BudgetRequest,
    BudgetStore,
    CallState,
    RunWrite,
    Settlement,
)
from flujo.state.ownership import Owner
from flujo.testing.conformance import LONG_S, TEXTS, RunDraft, in_a_loop, owner_elsewhere

_numbers = itertools.count()


def request(
    usd: str, *budgets: str, owner: Owner, tokens: int = 0, requests: int = 1, seconds: str = "0", run_id: str = "run"
) -> BudgetRequest:
    """Return what asks for a call of its own that can use so much."""
    most = Amounts(Decimal(usd), tokens, requests, Decimal(seconds))
    return BudgetRequest(f"call {next(_numbers)}", budgets or ("team",), most, run_id, owner)


async def ask(store: BudgetStore, wanted: BudgetRequest) -> BudgetOutcome:
    """Ask for a call."""
    return await store.change_budgets(BudgetChange(request=wanted))


async def ask_again(store: BudgetStore, wanted: BudgetRequest) -> BudgetOutcome:
    """Ask for a call that waits."""
    return await ask(store, replace(wanted, is_waiting=True))


async def end(store: BudgetStore, wanted: BudgetRequest, usd: str | None) -> BudgetOutcome:
    """Let a call end that cost so much; `None` if nobody knows."""
    used = None if usd is None else Amounts(Decimal(usd), requests=1)
    return await store.change_budgets(BudgetChange([Settlement(wanted.budgets, wanted.call_id, used)]))


class BudgetStoreConformance:
    """The tests; a subclass says how a store is made.

    Example:
        ```python
        from flujo import InMemoryBackend
        from flujo.testing.budget_conformance import BudgetStoreConformance

        class TestInMemoryBudgets(BudgetStoreConformance):
            def new_store(self, *, lease_s: float) -> InMemoryBackend:
                return InMemoryBackend(lease_s=lease_s)

            def reopened(self, store: InMemoryBackend, *, lease_s: float) -> InMemoryBackend:
                return store
        ```
    """

    def new_store(self, *, lease_s: float) -> BudgetStore:
        """Return a store that holds nothing.

        Args:
            lease_s: Seconds for which an owner keeps its calls without renewing them.
        """
        raise NotImplementedError

    def reopened(self, store: BudgetStore, *, lease_s: float) -> BudgetStore:
        """Return a store over what another one keeps, which goes on being used."""
        raise NotImplementedError

    # What a budget says

    @in_a_loop
    async def test_a_declared_budget_begins_with_nothing_spent(self, store: BudgetStore) -> None:
        """Its status has its limits, and all amounts are nothing."""
        (declared,) = await store.declare_budgets([Budget("team", usd=0.1, tokens=5, requests=2, seconds=1.5)])

        assert declared == await store.budget_status("team")
        assert declared.limit == AmountLimits(Decimal("0.1"), 5, 2, Decimal("1.500"))
        assert (declared.spent, declared.reserved, declared.uncertain) == (Amounts(), Amounts(), Amounts())
        assert (declared.per, declared.timezone, declared.window) == (None, "UTC", "")

    @in_a_loop
    async def test_names_are_kept_as_they_are(self, store: BudgetStore) -> None:
        """Any text may be the name of a budget."""
        names = [text for text in TEXTS if text]
        await store.declare_budgets([Budget(name, usd=1) for name in names])

        assert [status.name for status in await store.list_budgets()] == sorted(names)
        for name in names:
            assert (await store.budget_status(name)).name == name

    @in_a_loop
    async def test_an_unknown_budget_is_an_error(self, store: BudgetStore) -> None:
        """It is named, whatever is asked of it."""
        with pytest.raises(BudgetNotFoundError, match="no budget 'team' is stored here"):
            await store.budget_status("team")
        with pytest.raises(BudgetNotFoundError):
            await store.top_up_budget("team", Amounts(tokens=1))
        with pytest.raises(BudgetNotFoundError):
            await ask(store, request("1", owner=owner_elsewhere()))
        with pytest.raises(BudgetNotFoundError):
            await store.budget_calls("team")

    @in_a_loop
    async def test_a_new_declaration_changes_a_budget(self, store: BudgetStore) -> None:
        """What was spent stays."""
        await store.declare_budgets([Budget("team", usd=1)])
        await store.change_budgets(BudgetChange([Settlement(("team",), None, Amounts(Decimal("0.5")))]))

        (declared,) = await store.declare_budgets([Budget("team", usd=2, tokens=7)])

        assert declared.limit == AmountLimits(Decimal(2), 7)
        assert declared.spent.usd == Decimal("0.5")

    @in_a_loop
    async def test_what_is_set_by_hand_holds_until_the_declaration_changes(self, store: BudgetStore) -> None:
        """The same declaration changes nothing, also if the budget was made by hand."""
        await store.set_budget(Budget("team", usd=5))
        await store.declare_budgets([Budget("team", usd=1)])
        assert (await store.budget_status("team")).limit.usd == 5
        await store.set_budget(Budget("team", usd=6))
        await store.declare_budgets([Budget("team", usd=1)])
        assert (await store.budget_status("team")).limit.usd == 6

        await store.declare_budgets([Budget("team", usd=2)])

        assert (await store.budget_status("team")).limit.usd == 2

    @in_a_loop
    async def test_what_is_topped_up_comes_on_top_of_the_limit(self, store: BudgetStore) -> None:
        """Of kinds that have no limit nothing changes."""
        await store.declare_budgets([Budget("team", usd=1, tokens=5)])

        status = await store.top_up_budget("team", Amounts(Decimal("0.5"), 3, 2))

        assert status == await store.budget_status("team")
        assert status.limit == AmountLimits(Decimal("1.5"), 8)
        assert status.topped_up == Amounts(Decimal("0.5"), 3, 2)

    @in_a_loop
    async def test_a_window_is_named_after_its_beginning(self, store: BudgetStore) -> None:
        """Budgets of hours, days and months begin anew with each."""
        await store.declare_budgets([Budget(per, usd=1, per=per) for per in ("hour", "day", "month")])

        windows = {status.name: status.window for status in await store.list_budgets()}

        assert {name: len(window) for name, window in windows.items()} == {"hour": 22, "day": 10, "month": 7}

    # Reserving

    @in_a_loop
    async def test_what_is_reserved_and_spent_never_passes_a_limit(self, store: BudgetStore) -> None:
        """A call fits that meets the limit; one more waits, though nothing is spent."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("team", usd=1)])

        assert (await ask(store, request("0.6", owner=owner))).is_granted
        assert (await ask(store, request("0.4", owner=owner))).is_granted
        outcome = await ask(store, request("0.0001", owner=owner))

        assert not outcome.is_granted
        assert [(room.left.usd, room.free.usd) for room in outcome.rooms] == [(Decimal(1), Decimal(0))]
        assert (await store.budget_status("team")).reserved == Amounts(Decimal("1.0"), 0, 2)

    @in_a_loop
    async def test_each_kind_of_limit_counts(self, store: BudgetStore) -> None:
        """Tokens, requests and seconds keep a call from being reserved as dollars do."""
        owner = owner_elsewhere()
        kinds = {
            "tokens": Budget("tokens", tokens=5),
            "requests": Budget("requests", requests=1),
            "seconds": Budget("seconds", seconds=2),
        }
        await store.declare_budgets(list(kinds.values()))
        for name in kinds:
            assert (await ask(store, request("9", name, owner=owner, tokens=4, seconds="1.5"))).is_granted
            assert not (await ask(store, request("9", name, owner=owner, tokens=2, seconds="0.7"))).is_granted

    @in_a_loop
    async def test_a_call_is_reserved_in_all_its_budgets_or_in_none(self, store: BudgetStore) -> None:
        """The one that has no room says so; the others keep theirs."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("small", usd=1), Budget("large", usd=10)])

        outcome = await ask(store, request("2", "small", "large", owner=owner))

        assert not outcome.is_granted
        assert [room.free.usd for room in outcome.rooms] == [10, 1]
        for status in await store.list_budgets():
            assert status.reserved == Amounts()

    @in_a_loop
    async def test_what_a_call_used_takes_the_place_of_its_reservation(self, store: BudgetStore) -> None:
        """To the last digit; a second end changes nothing."""
        call = request("0.7", owner=owner_elsewhere())
        await store.declare_budgets([Budget("team", usd=1)])
        await ask(store, call)

        await end(store, call, "0.000000000000000000001")
        await end(store, call, "0.7")

        status = await store.budget_status("team")
        assert (status.spent.usd, status.reserved.usd) == (Decimal("1e-21"), Decimal(0))

    @in_a_loop
    async def test_a_call_that_is_not_made_costs_nothing(self, store: BudgetStore) -> None:
        """Neither if it was reserved nor if it waited."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("team", usd=1)])
        reserved, waiting = request("0.7", owner=owner), request("0.7", owner=owner)
        await ask(store, reserved)
        await ask(store, waiting)
        for call in (waiting, reserved):
            await store.change_budgets(BudgetChange([Settlement(call.budgets, call.call_id, Amounts())]))

        assert (await store.budget_status("team")).spent == Amounts()
        assert (await ask(store, request("1", owner=owner))).is_granted

    @in_a_loop
    async def test_a_call_of_which_nobody_knows_is_charged_in_full(self, store: BudgetStore) -> None:
        """It is marked as uncertain."""
        call = request("0.7", owner=owner_elsewhere(), tokens=3)
        await store.declare_budgets([Budget("team", usd=1)])
        await ask(store, call)

        await end(store, call, None)

        status = await store.budget_status("team")
        assert status.spent == status.uncertain == Amounts(Decimal("0.7"), 3, 1)
        assert status.reserved == Amounts()

    @in_a_loop
    async def test_the_truth_counts_above_the_limit(self, store: BudgetStore) -> None:
        """A call that used more than was reserved passes the limit, and whoever settles it is told."""
        call = request("0.7", owner=owner_elsewhere())
        await store.declare_budgets([Budget("team", usd=1)])
        await ask(store, call)

        outcome = await end(store, call, "1.2")

        assert outcome.breaches == (await store.budget_status("team"),)
        assert outcome.breaches[0].left.usd == Decimal("-0.2")

    @in_a_loop
    async def test_a_charge_needs_no_reservation(self, store: BudgetStore) -> None:
        """Every budget that it names has it, and it may pass the limit."""
        await store.declare_budgets([Budget("a", usd=1), Budget("b", usd=3)])

        charge = BudgetChange([Settlement(("a", "b"), None, Amounts(Decimal(2), 5, 1))])
        outcome = await store.change_budgets(charge)

        assert [status.name for status in outcome.breaches] == ["a"]
        assert [status.spent.usd for status in await store.list_budgets()] == [2, 2]

    # Waiting

    @in_a_loop
    async def test_nobody_overtakes_a_call_that_waits(self, store: BudgetStore) -> None:
        """A later call that would fit waits too; the first one comes first."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("team", usd=1)])
        running, first, second = (request(usd, owner=owner) for usd in ("0.9", "0.8", "0.1"))
        await ask(store, running)
        assert (await ask(store, first)).ahead == 0

        assert (await ask(store, second)).ahead == 1
        await end(store, running, "0.1")
        assert not (await ask_again(store, second)).is_granted
        assert (await ask_again(store, first)).is_granted
        assert (await ask_again(store, second)).is_granted

    @in_a_loop
    async def test_a_call_that_leaves_the_queue_holds_nobody_up(self, store: BudgetStore) -> None:
        """The next one takes its place."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("team", usd=1)])
        first, second = request("2", owner=owner), request("0.5", owner=owner)
        await ask(store, first)
        await ask(store, second)

        await end(store, first, "0")

        assert (await ask_again(store, second)).is_granted

    @in_a_loop
    async def test_calls_of_other_budgets_do_not_wait_for_each_other(self, store: BudgetStore) -> None:
        """A queue is that of a budget."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("a", usd=1), Budget("b", usd=1)])
        await ask(store, request("2", "a", owner=owner))

        assert (await ask(store, request("1", "b", owner=owner))).is_granted
        assert (await ask(store, request("0", "a", "b", owner=owner))).ahead == 1

    @in_a_loop
    async def test_a_call_that_waits_may_come_to_want_less(self, store: BudgetStore) -> None:
        """What it asks for last is what is reserved."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("team", usd=1)])
        wanted = request("3", owner=owner)
        await ask(store, wanted)

        await ask_again(store, replace(wanted, most=Amounts(Decimal("0.5"))))

        assert (await store.budget_status("team")).reserved.usd == Decimal("0.5")

    @in_a_loop
    async def test_what_ends_makes_room_for_what_begins_with_it(self, store: BudgetStore) -> None:
        """One change may settle a call and reserve the next one."""
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("team", usd=1)])
        first, second = request("1", owner=owner), request("0.9", owner=owner)
        await ask(store, first)

        settled = Settlement(first.budgets, first.call_id, Amounts(Decimal("0.1")))
        outcome = await store.change_budgets(BudgetChange([settled], second))

        assert outcome.is_granted
        assert (await store.budget_status("team")).left.usd == 0

    @in_a_loop
    async def test_calls_are_listed_in_order(self, store: BudgetStore) -> None:
        """Those that are in flight, wait or were lost, with their run, owner and amount; not those that ended."""
        await store.declare_budgets([Budget("team", usd=1), Budget("other", usd=9)])
        owner = owner_elsewhere()
        calls = [
            request(usd, owner=owner, run_id=run_id, tokens=3)
            for usd, run_id in (("0.1", "ended"), ("0.2", "lost"), ("0.6", TEXTS[-1]), ("0.9", "waiting"))
        ]
        for call in calls[:2]:
            await ask(store, call)
        await end(store, calls[0], "0.1")
        await store.lose_calls("lost")
        for call in calls[2:]:
            await ask(store, call)
        await ask(store, request("1", "other", owner=owner))

        states: tuple[CallState, ...] = ("lost", "reserved", "waiting")
        assert list(await store.budget_calls("team")) == [
            BudgetCall(call.call_id, call.run_id, owner, state, call.most, "", is_alive=state != "lost")
            for call, state in zip(calls[1:], states, strict=True)
        ]

    # Owners

    def test_the_calls_of_a_dead_owner_are_charged_as_soon_as_they_stand_in_the_way(self) -> None:
        """An owner that did not renew its lease is taken for dead, wherever it is; its calls wait no more either."""

        async def scenario() -> None:
            store = self.new_store(lease_s=0.02)
            await store.declare_budgets([Budget("team", usd=1)])
            dead = owner_elsewhere()
            lost, waiting = request("0.6", owner=dead), request("0.9", owner=dead)
            await ask(store, lost)
            await ask(store, waiting)
            await asyncio.sleep(0.05)
            assert [call.is_alive for call in await store.budget_calls("team")] == [False, False]
            alive = Owner()
            alive.enter()

            assert (await ask(store, request("0.4", owner=alive))).is_granted

            status = await store.budget_status("team")
            assert (status.spent.usd, status.uncertain.usd) == (Decimal("0.6"), Decimal("0.6"))
            assert status.reserved.usd == Decimal("0.4")
            alive.leave()
            await store.close()

        asyncio.run(scenario())

    def test_an_owner_that_was_only_slow_may_still_say_what_its_call_used(self) -> None:
        """The truth takes the place of what was charged for it."""

        async def scenario() -> None:
            store = self.new_store(lease_s=0.02)
            await store.declare_budgets([Budget("team", usd=1)])
            slow = request("0.6", owner=owner_elsewhere())
            await ask(store, slow)
            await asyncio.sleep(0.05)
            await ask(store, request("0.5", owner=owner_elsewhere()))

            await end(store, slow, "0.1")

            status = await store.budget_status("team")
            assert (status.spent.usd, status.uncertain.usd) == (Decimal("0.1"), Decimal(0))
            await store.close()

        asyncio.run(scenario())

    @in_a_loop
    async def test_a_lease_that_is_renewed_holds(self, store: BudgetStore) -> None:
        """Whoever renews keeps what is reserved, and the place in the queue."""
        brief = self.reopened(store, lease_s=0.02)
        await store.declare_budgets([Budget("team", usd=1)])
        owner = owner_elsewhere()
        await ask(brief, request("0.6", owner=owner))
        await asyncio.sleep(0.05)
        await self.reopened(store, lease_s=LONG_S).renew_calls(owner)

        assert not (await ask(store, request("0.6", owner=owner_elsewhere()))).is_granted
        assert (await store.budget_status("team")).uncertain == Amounts()

    @in_a_loop
    async def test_whoever_goes_on_with_a_run_charges_what_it_left_behind(self, store: BudgetStore) -> None:
        """At once, and only that of this run."""
        await store.declare_budgets([Budget("team", usd=2)])
        owner = owner_elsewhere()
        await ask(store, request("0.6", owner=owner))
        await ask(store, request("0.5", owner=owner, run_id="another"))

        await store.lose_calls("run")
        await store.lose_calls("run")

        status = await store.budget_status("team")
        assert (status.uncertain.usd, status.reserved.usd) == (Decimal("0.6"), Decimal("0.5"))

    # Together with a run

    @in_a_loop
    async def test_a_charge_is_stored_with_the_result_that_was_paid_for(self, store: BudgetStore) -> None:
        """Both are there, or neither is: a change of a run that is refused charges nothing."""
        await store.declare_budgets([Budget("team", usd=1)])
        draft, owner = RunDraft("run"), owner_elsewhere()
        await store.create(draft.record(), owner)
        charge = BudgetChange([Settlement(("team",), None, Amounts(Decimal("0.5")))])
        change = draft.change(draft.entry("0"))

        with pytest.raises(RunOwnedError):
            await store.change_budgets(charge, RunWrite("run", owner_elsewhere(), change))
        assert (await store.budget_status("team")).spent == Amounts()
        await store.change_budgets(charge, RunWrite("run", owner, change))

        assert (await store.budget_status("team")).spent.usd == Decimal("0.5")
        assert draft.is_like(await store.load("run"))

    @in_a_loop
    async def test_a_call_that_has_to_wait_writes_nothing_to_its_run(self, store: BudgetStore) -> None:
        """What the run wants to store is stored once the call may begin."""
        await store.declare_budgets([Budget("team", usd=1)])
        draft, owner = RunDraft("run"), owner_elsewhere()
        await store.create(draft.record(), owner)
        before = await store.load("run")
        first, wanted = request("0.6", owner=owner), request("0.6", owner=owner)
        await ask(store, first)
        write = RunWrite("run", owner, draft.change(draft.entry("0")))

        outcome = await store.change_budgets(BudgetChange(request=wanted), write)
        assert not outcome.is_granted
        assert await store.load("run") == before
        await end(store, first, "0.1")
        outcome = await store.change_budgets(BudgetChange(request=replace(wanted, is_waiting=True)), write)

        assert outcome.is_granted
        assert draft.is_like(await store.load("run"))

    # Many at once

    @in_a_loop
    async def test_many_that_ask_at_once_never_pass_a_limit(self, store: BudgetStore) -> None:
        """Of a hundred calls at once over two connections only as many are reserved as fit, in both budgets."""
        other = self.reopened(store, lease_s=LONG_S)
        owner = owner_elsewhere()
        await store.declare_budgets([Budget("a", usd=1), Budget("b", requests=7)])

        outcomes = await asyncio.gather(
            *(ask((store, other)[number % 2], request("0.1", "a", "b", owner=owner)) for number in range(100))
        )

        assert sum(outcome.is_granted for outcome in outcomes) == 7
        statuses = await other.list_budgets()
        assert [status.reserved.usd for status in statuses] == [Decimal("0.7")] * 2
