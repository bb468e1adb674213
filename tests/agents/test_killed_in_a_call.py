"""A run that is killed while models are asked never spends more than its limit when it goes on.

By default 30 processes are killed in each store; `--long` kills 300.
"""

import asyncio
import random
import signal
from decimal import Decimal
from pathlib import Path

import pytest

from flujo.domain.results import UNCERTAIN
from tests.agents.calls import assert_calls_add_up
from tests.agents.dying import ask_all, look_things_up, start, start_looking
from tests.providers.server import Answer, Gate, Held, Provider, ReceivedRequest, Slow, Text, ToolCalls

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("prices")]

_ANSWER = Text("word " * 40)  # 50 tokens, $0.005 and a little
_MOST = Decimal("0.012")  # that a request may cost


def test_a_call_in_flight_at_a_kill_is_charged_in_full(provider: Provider, database: Path | str) -> None:
    """The step that it was of has it in its cost, marked as uncertain; the provider has billed it."""
    gate = Gate()
    provider.script(Held(_ANSWER, gate))
    process = start(database, provider.base_url, 1, steps=1)
    provider.wait_arrived(2)
    process.kill()
    process.join()
    gate.open()

    result = asyncio.run(ask_all(database, provider.base_url, 1, steps=1))

    assert result.status == "completed"
    assert_calls_add_up(result.step_history)
    both, _ = result.step_history
    assert [[call.is_uncertain for call in branch.calls] for branch in both.step_history] == [[True, False]] * 2
    assert {call.label for branch in both.step_history for call in branch.calls} == {"openai:model"}
    uncertain = [branch.metadata_[UNCERTAIN] for branch in both.step_history]
    assert all(Decimal(0) < cost <= _MOST for cost in uncertain)
    assert len(provider.bill) == 5
    answered = sum((billed.cost_usd for billed in provider.bill[2:]), Decimal(0))
    assert result.total_cost == answered + sum(uncertain)


def test_however_often_a_run_is_killed_its_limit_holds(
    provider: Provider, database: Path | str, pytestconfig: pytest.Config
) -> None:
    """The provider's bill never passes the limit, and what flujo counts is never less than the bill."""
    chance = random.Random(5)
    provider.script(Slow(_ANSWER, 0.01))
    limit, steps = 0.6, 60
    for _ in range(300 if pytestconfig.getoption("--long") else 30):
        process = start(database, provider.base_url, limit, steps)
        asked = len(provider.requests) + chance.randint(1, 4)
        while process.is_alive() and len(provider.requests) < asked:
            process.join(0.002)
        process.join(chance.uniform(0, 0.02))
        process.kill()
        process.join()

    result = asyncio.run(ask_all(database, provider.base_url, limit, steps))

    assert provider.total_usd <= Decimal(str(limit))
    assert result.status in ("completed", "stopped")
    assert provider.total_usd <= result.total_cost <= Decimal(str(limit))
    assert_calls_add_up(result.step_history)
    assert any(UNCERTAIN in step.metadata_ for step in result.step_history), "no process was killed within a call"


def _looks_thrice(request: ReceivedRequest) -> Text | ToolCalls:
    """Call the tool with the next number, and end after the third."""
    found = sum(message["role"] == "tool" for message in request.body["messages"])
    return Text("all found") if found == 3 else ToolCalls([("look", f'{{"number": {found + 1}}}')])


@pytest.mark.parametrize("kill_at", [f"{when} {number}" for number in (1, 2, 3) for when in ("before", "after")])
def test_an_agent_that_is_killed_repeats_no_request_and_no_tool(
    provider: Provider, database: Path | str, tmp_path: Path, kill_at: str
) -> None:
    """Of four requests and three calls of a tool only the one in flight at the kill is made again."""
    provider.script(_looks_thrice)
    effects = tmp_path / "effects"
    process = start_looking(database, provider.base_url, effects, kill_at)
    process.join()
    assert process.exitcode == -signal.SIGKILL

    result = asyncio.run(look_things_up(database, provider.base_url, effects, None))

    when, number = kill_at.split()
    repeated = [number] if when == "after" else []
    assert sorted(effects.read_text().split()) == sorted(["1", "2", "3", *repeated])
    assert (result.output, len(provider.requests)) == ("all found", 4)
    assert result.total_cost == provider.total_usd
    assert [call.cost for call in result.step_history[0].calls] == [billed.cost_usd for billed in provider.bill]
    assert {call.label for call in result.step_history[0].calls} == {"openai:model"}


def test_a_request_in_flight_at_a_kill_is_the_only_one_made_again(
    provider: Provider, database: Path | str, tmp_path: Path
) -> None:
    """What it may have cost counts, and the answers that came before are not paid for again."""
    gate, effects = Gate(), tmp_path / "effects"

    def hold_the_third(request: ReceivedRequest) -> Answer:
        return Held(_looks_thrice(request), gate) if request.number == 3 else _looks_thrice(request)

    provider.script(hold_the_third)
    process = start_looking(database, provider.base_url, effects, None)
    provider.wait_arrived(3)
    process.kill()
    process.join()
    gate.open()

    result = asyncio.run(look_things_up(database, provider.base_url, effects, None))

    assert effects.read_text().split() == ["1", "2", "3"]
    assert (result.output, len(provider.requests)) == ("all found", 5)
    answered = sum((billed.cost_usd for billed in provider.bill), Decimal(0)) - provider.bill[2].cost_usd
    (step,) = result.step_history
    assert result.total_cost == answered + step.metadata_[UNCERTAIN]
    assert_calls_add_up([step])
    assert sorted((call.is_uncertain, call.cost) for call in step.calls if not call.is_uncertain) == sorted(
        (False, billed.cost_usd) for number, billed in enumerate(provider.bill) if number != 2
    )
    assert [call.label for call in step.calls if call.is_uncertain] == ["openai:model"]
