"""What keeping runs in SQLite costs, beside SQLite itself.

Both sides run in one process, in turns, on files in one folder; what is shown is the median.
Beside finished steps stands one INSERT a commit of as much text, by the standard library's `sqlite3` in the same mode;
beside many runs at once stands the same with as many rows in a commit as there are runs.
CPU time is that of the whole process, the thread that writes included.
"""

import asyncio
import gc
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import cyclopts
from pydantic import BaseModel, ConfigDict, Field

from flujo import Flujo, Pipeline, PipelineContext, SQLiteBackend, Step

REPEATS = 3
SIZES = (1_000, 10_000)
RUNS_AT_ONCE = 32
STEPS_EACH = 100
RESUMED_STEPS = 1_000
APPENDING_STEPS = 800
APPENDED_BYTES = 2_000
_PAYLOAD = "x" * 150  # as much as the entry of a step that gives a number


class Comparison(BaseModel):
    """The same amount of work by flujo and by bare SQLite."""

    model_config = ConfigDict(frozen=True)

    name: str
    steps: int
    flujo_cpu_us: float
    """Microseconds of CPU time a step."""
    bare_cpu_us: float
    flujo_per_s: float
    """Steps a second of real time."""
    bare_per_s: float

    @property
    def cpu_ratio(self) -> float:
        return self.flujo_cpu_us / self.bare_cpu_us


class DurableReport(BaseModel):
    model_config = ConfigDict(frozen=True)

    sequences: list[Comparison]
    at_once: Comparison
    resumed_steps: int
    resume_ms: float
    """Milliseconds of CPU time to go on after so many finished steps, to the end of the one that is left."""
    appending_steps: int
    live_bytes: int
    """What the steps appended to the context."""
    database_bytes: int
    """Database and log while the store is open."""
    closed_bytes: int

    @property
    def size_ratio(self) -> float:
        return self.database_bytes / self.live_bytes


class _Pages(PipelineContext):
    pages: list[str] = Field(default_factory=list[str])


async def _increment(number: int) -> int:
    return number + 1


async def _timed(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Return seconds of CPU time and of real time."""
    gc.collect()
    cpu_s, real_s = time.process_time(), time.perf_counter()
    await work()
    return time.process_time() - cpu_s, time.perf_counter() - real_s


async def _compare(
    name: str, steps: int, flujo: Callable[[Path], Awaitable[None]], bare: Callable[[Path], None], repeats: int
) -> Comparison:
    sides: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            sides[0].append(await _timed(lambda: flujo(Path(folder, "flujo.db"))))
            sides[1].append(await _timed(lambda: asyncio.to_thread(bare, Path(folder, "bare.db"))))
    (flujo_cpu, flujo_real), (bare_cpu, bare_real) = (
        tuple(median(each[position] for each in side) for position in (0, 1)) for side in sides
    )
    return Comparison(
        name=name,
        steps=steps,
        flujo_cpu_us=flujo_cpu / steps * 1e6,
        bare_cpu_us=bare_cpu / steps * 1e6,
        flujo_per_s=steps / flujo_real,
        bare_per_s=steps / bare_real,
    )


def _insert(path: Path, rows: int, *, at_once: int, synchronous: str) -> None:
    """Insert rows, so many in each commit."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE rows (run INTEGER, path TEXT, payload TEXT)")
        for start in range(0, rows, at_once):
            connection.execute("BEGIN IMMEDIATE")
            for row in range(start, start + at_once):
                connection.execute("INSERT INTO rows VALUES (?, ?, ?)", (1, str(row), _PAYLOAD))
            connection.execute("COMMIT")


async def _measure_sequence(size: int, repeats: int) -> Comparison:
    pipeline = Pipeline[int, int](steps=[Step(f"step {i}", _increment) for i in range(size)])

    async def run(path: Path) -> None:
        backend = SQLiteBackend(path, durability="fast")
        await Flujo(pipeline, state_backend=backend).run_async(0)
        await backend.close()

    return await _compare(
        "in sequence, fast", size, run, lambda path: _insert(path, size, at_once=1, synchronous="NORMAL"), repeats
    )


async def _measure_at_once(repeats: int) -> Comparison:
    pipeline = Pipeline[int, int](steps=[Step(f"step {i}", _increment) for i in range(STEPS_EACH)])
    steps = RUNS_AT_ONCE * STEPS_EACH

    async def run(path: Path) -> None:
        backend = SQLiteBackend(path, durability="full")
        runner = Flujo(pipeline, state_backend=backend)
        await asyncio.gather(*(runner.run_async(0) for _ in range(RUNS_AT_ONCE)))
        await backend.close()

    return await _compare(
        f"{RUNS_AT_ONCE} runs at once, full",
        steps,
        run,
        lambda path: _insert(path, steps, at_once=RUNS_AT_ONCE, synchronous="FULL"),
        repeats,
    )


async def _measure_resume(repeats: int) -> float:
    """Return the milliseconds of CPU time that going on after finished steps takes."""
    is_up = False

    async def last(number: int) -> int:
        if not is_up:
            raise ConnectionError("not yet")
        return number

    steps = [Step[int, int](f"step {i}", _increment) for i in range(RESUMED_STEPS)]
    runner_of = Flujo(Pipeline[int, int](steps=[*steps, Step("last", last, max_retries=0)]))
    took_s = list[float]()
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            is_up = False
            backend = SQLiteBackend(Path(folder, "runs.db"), durability="fast")
            runner = runner_of.with_settings(state_backend=backend)
            await runner.run_async(0, run_id="run")
            is_up = True

            async def go_on(runner: Flujo[int, int] = runner) -> None:
                await runner.run_async(0, run_id="run")

            took_s.append((await _timed(go_on))[0])
            await backend.close()
    return median(took_s) * 1e3


async def _measure_size() -> tuple[int, int, int]:
    """Return the bytes that were appended, those of the open database with its log, and those of the closed one."""

    async def append(number: int, *, context: _Pages) -> int:
        context.pages.append(f"{number:08}".ljust(APPENDED_BYTES, "."))
        return number + 1

    pipeline = Pipeline[int, int](steps=[Step(f"step {i}", append) for i in range(APPENDING_STEPS)])
    folder = Path(tempfile.mkdtemp())
    try:
        backend = SQLiteBackend(folder / "runs.db", durability="fast")
        await Flujo(pipeline, context_model=_Pages, state_backend=backend).run_async(0)
        open_bytes = _bytes_in(folder)
        await backend.close()
        return APPENDING_STEPS * APPENDED_BYTES, open_bytes, _bytes_in(folder)
    finally:
        shutil.rmtree(folder)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if not file.name.endswith("-shm"))


async def measure(sizes: tuple[int, ...] = SIZES, repeats: int = REPEATS) -> DurableReport:
    live, opened, closed = await _measure_size()
    return DurableReport(
        sequences=[await _measure_sequence(size, repeats) for size in sizes],
        at_once=await _measure_at_once(repeats),
        resumed_steps=RESUMED_STEPS,
        resume_ms=await _measure_resume(repeats),
        appending_steps=APPENDING_STEPS,
        live_bytes=live,
        database_bytes=opened,
        closed_bytes=closed,
    )


def main(*, sizes: tuple[int, ...] = SIZES, repeats: int = REPEATS, json: bool = False) -> None:
    report = asyncio.run(measure(sizes, repeats))
    if json:
        print(report.model_dump_json(indent=2))
        return
    print("durable steps, flujo beside bare SQLite:")
    for each in (*report.sequences, report.at_once):
        print(
            f"  {each.steps:>6,} {each.name}: {each.flujo_cpu_us:.0f} µs of CPU beside {each.bare_cpu_us:.0f} "
            f"({each.cpu_ratio:.1f} times), {each.flujo_per_s:,.0f} a second beside {each.bare_per_s:,.0f}"
        )
    print(f"  going on after {report.resumed_steps:,} finished steps: {report.resume_ms:.1f} ms of CPU")
    print(
        f"  {report.appending_steps} steps that append {APPENDED_BYTES:,} bytes each: {report.size_ratio:.2f} times "
        f"the live data while open, {report.closed_bytes / report.live_bytes:.2f} when closed"
    )


if __name__ == "__main__":
    cyclopts.run(main)
