"""Runs random programs that are interrupted again and again, in a store that lives on.

A run has lives: each begins with a pipeline built anew, and ends in the drawn way, or because the run waits or is over.
Each life counts its own calls, so that what was called again can be told from what was called once.
"""

import asyncio
import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from hypothesis import strategies as st

from flujo import InMemoryBackend, PipelineAbortSignal, PipelineResult, PreStepPayload, UsageLimitExceededError
from flujo import UsageLimits as Limits
from flujo.state.backend import Durability
from flujo.state.ownership import Owner
from flujo.state.records import JournalWrite, RunRecord, StoredRun
from tests.properties.building import build
from tests.properties.model import Report, Trace
from tests.properties.programs import Agent, Node, Program, reply, walk
from tests.properties.running import report_of, runner_of
from tests.properties.world import WORLD, World

RUN_ID = "run"

_MOST_LIVES = 300


@dataclass(frozen=True)
class Interruption:
    """How a life ends before its time.

    Attributes:
        kind: `crash` is the death of the process at a write; `limit` lets it spend only some of what it would.
        at: The write, the round of the event loop or the step at which it happens; of a limit, tenths of the tokens.
        late: Whether the process dies after the write.
    """

    kind: Literal["crash", "cancel", "abort", "limit"]
    at: int
    late: bool = False


crashes = st.builds(Interruption, st.just("crash"), st.integers(1, 12), st.booleans())
"""Draws deaths of the process."""

interruptions = st.one_of(
    crashes,
    st.builds(Interruption, st.just("cancel"), st.integers(0, 150)),
    st.builds(Interruption, st.just("abort"), st.integers(1, 12)),
    st.builds(Interruption, st.just("limit"), st.integers(0, 9)),
)
"""Draws ways to end a life."""


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Life(World):
    """The world of one life.

    Attributes:
        executions: The agents that were called, by the task that called them; a retry is no execution of its own.
        recorded: How often each agent's step was stored as finished.
        newest: What each task was charged with last, in dollars and tokens.
    """

    executions: dict[object, list[str]] = field(default_factory=lambda: defaultdict[object, list[str]](list))
    recorded: Counter[str] = field(default_factory=Counter[str])
    newest: dict[object, tuple[Fraction, int]] = field(default_factory=dict[object, tuple[Fraction, int]])

    def begin(self, agent: Agent) -> bool:
        """Note that a call begins, and return whether it is to raise."""
        if not self.is_retry(agent):
            self.executions[asyncio.current_task()].append(agent.name)
        return super().begin(agent)

    def charge(self, agent: Agent, seen: Any, cost: Fraction, tokens: int) -> None:
        """Note that a call ends and what it costs."""
        super().charge(agent, seen, cost, tokens)
        self.newest[asyncio.current_task()] = cost, tokens

    def cut(self, agent: Agent, tokens: int) -> None:
        """Note that a call was cancelled while it waited, and the tokens that it had taken by then."""
        super().cut(agent, tokens)
        self.newest[asyncio.current_task()] = Fraction(0), tokens

    def lost(self, names: set[str]) -> Counter[str]:
        """Return which of the agents were called without their step being stored as finished."""
        begun = Counter(name for task in self.executions.values() for name in task if name in names)
        return begun - self.recorded

    @property
    def in_flight(self) -> Counter[str]:
        """The newest execution in each task: all that may have been in flight when the life ended."""
        return Counter(task[-1] for task in self.executions.values())


class FaultyStore(InMemoryBackend):
    """A store that is slow, checks itself after every write, and whose process dies at one of them.

    Attributes:
        dies_at: The write of this life at which the process dies; 0 for none.
        dies_late: Whether it dies after the write.
        writes: The writes of this life.
        statuses: How the run stood after each write of all lives.
    """

    def __init__(self, *, waits: int = 0, durability: Durability = "full") -> None:
        super().__init__(durability=durability)
        self._waits = waits
        self.dies_at, self.dies_late = 0, False
        self.writes, self._is_dead = 0, False
        self.statuses: list[str] = []

    def begin_life(self, end: Interruption | None) -> None:
        """Let a new process begin, which may die."""
        dies = end is not None and end.kind == "crash"
        self.dies_at, self.dies_late = (end.at, end.late) if end is not None and dies else (0, False)
        self.writes, self._is_dead = 0, False

    async def create(self, record: RunRecord, owner: Owner) -> bool:
        """Store a new run."""
        self._live()
        return await super().create(record, owner)

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Store a change, slowly, and die."""
        self._live()
        self.writes += 1
        mine = self.writes
        for _ in range(self._waits):
            await WORLD.get().turnstile.wait()
        self._die(mine, late=False)
        await super().write(run_id, owner, change)
        self._check(await self.load(run_id), change)
        self._die(mine, late=True)

    async def release(self, run_id: str, owner: Owner) -> None:
        """Let a run go."""
        self._live()
        await super().release(run_id, owner)

    def _live(self) -> None:
        if self._is_dead:
            raise Crash

    def _die(self, write: int, *, late: bool) -> None:
        self._is_dead = self._is_dead or (write == self.dies_at and late == self.dies_late)
        self._live()

    def _check(self, stored: StoredRun, change: JournalWrite) -> None:
        """Check what holds after every write, and note which agents' steps have finished."""
        self.statuses.append(stored.record.status)
        check_journal(stored)
        life = WORLD.get()
        assert isinstance(life, Life)
        for entry in change.entries:
            if entry.kind == "done":
                result = json.loads(entry.payload)["result"]
                if "steps" not in result:
                    life.recorded[result["name"]] += 1


def check_journal(stored: StoredRun) -> None:
    """Assert that a stored run is intact, and that nothing is below a step that finished but what people said."""
    record, head = stored.record, 0
    for entry in stored.entries:
        assert entry.is_intact(record.run_id)
        head ^= entry.checksum
    assert (record.head, record.entry_count) == (head, len(stored.entries))
    assert record.is_intact()
    finished = {entry.path for entry in stored.entries if entry.kind == "done"}
    for entry in stored.entries:
        if entry.kind != "answer":
            parts = entry.path.split("/")
            above = {"/".join(parts[:length]) for length in range(len(parts))}
            assert not above & finished, f"{entry.kind} at {entry.path} is below a finished step"
            assert entry.kind == "done" or entry.path not in finished, f"{entry.kind} at {entry.path}, which finished"


@dataclass
class History:
    """What became of a program in all its lives.

    Attributes:
        result: What it came to in the end.
        lives: In order; the last one came to the end.
        ended_early: For each life, how it was interrupted; `None` if it was not.
    """

    result: PipelineResult[Any]
    lives: list[Life]
    ended_early: list[Interruption | None]

    @property
    def spent(self) -> tuple[Fraction, int]:
        """Dollars and tokens of all calls of all lives."""
        costs, tokens = zip(*(life.spent for life in self.lives), strict=True)
        return sum(costs, Fraction(0)), sum(tokens)

    @property
    def uncertain(self) -> tuple[Fraction, int]:
        """The most that may be forgotten: in lives that ended without a word, the newest charge of each task."""
        newest = [
            charge
            for life, end in zip(self.lives, self.ended_early, strict=True)
            if end is not None and end.kind in ("crash", "cancel")
            for charge in life.newest.values()
        ]
        return sum((cost for cost, _ in newest), Fraction(0)), sum(tokens for _, tokens in newest)

    @property
    def calls(self) -> Counter[Any]:
        """The charged calls of all lives."""
        return sum((life.calls for life in self.lives), Counter[Any]())

    def report(self) -> Report:
        """Tell what the run came to, with the calls of all lives."""
        report = report_of(self.result, self.lives[-1])
        report.calls = self.calls
        return report


async def live_through(
    program: Program, store: FaultyStore, ends: Sequence[Interruption], order: Sequence[int], tokens: int
) -> History:
    """Run a program to its end, however often it is interrupted, and answer every question.

    Args:
        program: What is run.
        store: Where.
        ends: How each of the first lives ends.
        order: The places of the next questions to answer.
        tokens: What the program takes when nothing interrupts it.
    """
    first, lives, early, answers = WORLD.get(), list[Life](), list[Interruption | None](), 0
    to_answer: tuple[tuple[str, ...], int] | None = None
    for number in range(_MOST_LIVES):
        end = ends[number] if number < len(ends) else None
        life = Life(first.turnstile)
        lives.append(life)
        WORLD.set(life)
        store.begin_life(end)
        result = await _live(program, store, end, to_answer, tokens)
        to_answer = None
        early.append(end if result is None else None)
        if result is None:
            continue
        if result.status == "paused":
            asked = result.waiting[order[answers % len(order)] % len(result.waiting)]
            to_answer = asked.path, reply(asked.message)
            answers += 1
        else:
            return History(result, lives, early)
    raise AssertionError("the run does not come to an end")


async def _live(
    program: Program,
    store: FaultyStore,
    end: Interruption | None,
    answer: tuple[tuple[str, ...], int] | None,
    tokens: int,
) -> PipelineResult[Any] | None:
    """Run one life; return what it came to, or `None` if it was interrupted."""
    settings: dict[str, Any] = {"state_backend": store}
    if end is not None and end.kind == "limit":
        settings["usage_limits"] = Limits(total_tokens_limit=tokens * end.at // 10)
    if end is not None and end.kind == "abort":
        settings["hooks"] = [_aborting(end.at)]
    runner = runner_of(build(program.root), program, **settings)

    async def work() -> PipelineResult[Any]:
        if answer is None:
            return await runner.run_async(program.data, run_id=RUN_ID)
        path, said = answer
        return await runner.resume_async(RUN_ID, said, path=path)

    task = asyncio.ensure_future(work())
    if end is not None and end.kind == "cancel":
        for _ in range(end.at):
            await asyncio.sleep(0)
        task.cancel()
    try:
        result = await task
    except (Crash, asyncio.CancelledError, UsageLimitExceededError):
        return None
    return None if result.status == "aborted" else result


def _aborting(at: int) -> Any:
    """Return a hook that aborts the run at a step."""
    begun = 0

    async def abort(payload: PreStepPayload) -> None:
        nonlocal begun
        begun += 1
        if begun == at:
            raise PipelineAbortSignal("enough")

    return abort


def steady(program: Program) -> Program:
    """Return a program whose agents end each execution with their first attempt, in the way they would in the end.

    A script does not know which attempt it is asked for after a crash among several of them.
    """
    return dataclasses.replace(program, root=_steady(program.root))


def _steady(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_steady(part) for part in value)  # pyright: ignore[reportUnknownVariableType]  # a tuple of anything
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changes = {each.name: _steady(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Agent):
        fails, is_refused = (value.endings[-1] == ending for ending in ("raises", "is refused"))
        changes |= {"failures": int(fails), "is_fatal": fails, "refusals": int(is_refused)}
        changes |= {"retries": 0} if is_refused else {}
    return dataclasses.replace(value, **changes)


def settled(root: Node) -> set[str]:
    """Return the agents that come to an answer: their steps finish when they do."""
    return {
        node.name
        for node in walk(root)
        if isinstance(node, Agent)
        and node.endings[-1] == "is accepted"
        and node.shape not in ("misfit", "stranger")
        and not node.asks
    }


def told(traces: Sequence[Trace]) -> list[str]:
    """Return a history as text, without what repeated failures add to: attempts, cost and tokens."""
    lines: list[str] = []
    for trace in traces:
        lines.append(f"{trace.name} {trace.status}: {trace.output!r}, {trace.feedback}, {sorted(trace.notes.items())}")
        lines += [f"  {line}" for line in told(trace.children)]
    return lines


def check_costs(trace: Trace, expected: Trace, most: int) -> None:
    """Assert that a step cost what it has to; one that failed may have been run several times, and retried each time.

    Args:
        trace: What the step came to.
        expected: What it comes to without interruptions.
        most: How often a step may have been run.
    """
    for child, expected_child in zip(trace.children, expected.children, strict=True):
        check_costs(child, expected_child, most)
    if trace.children:
        assert trace.cost == sum((child.cost for child in trace.children), Fraction(0)), trace
        assert trace.tokens == sum(child.tokens for child in trace.children), trace
    else:
        assert expected.cost <= trace.cost <= most * expected.cost, trace
        assert expected.tokens <= trace.tokens <= most * expected.tokens, trace
        assert expected.attempts <= trace.attempts <= most * expected.attempts, trace
