"""`flujo bench`: prints what flujo itself costs, beside plain asyncio, and what a step of a user's pipeline costs."""

import sys
from contextlib import redirect_stdout
from typing import Any

from rich.console import Console

from flujo.application.runner import Flujo
from flujo.bench.measuring import REPEATS, SIZES, BenchmarkError, measure_pipeline, measure_scenarios
from flujo.bench.report import Report, pipeline_line, scenario_table
from flujo.cli.exit_codes import ExitCode, WrongUsageError
from flujo.cli.loading import load_file
from flujo.cli.parameters import Count, FreeText
from flujo.cli.terminal import ResultStream, say, say_error
from flujo.cli.typed_values import input_for
from flujo.exceptions import UsageLimitExceededError


def bench(
    file: str | None = None,
    /,
    *,
    input: FreeText | None = None,
    size: tuple[Count, ...] | None = None,
    repeats: Count = REPEATS,
    json: bool = False,
) -> ExitCode:
    """Measure what flujo itself costs on this machine, or what a step of a pipeline costs.

    Without a file: CPU time per step of trivial steps in sequence, in a loop, in parallel branches and in a map,
    each beside the same work in plain asyncio.
    With a file: CPU time per step of its pipeline, which runs `repeats + 1` times and pays its agents each time.

    Args:
        file: A Python file, or FILE:NAME for one of its variables, as for `flujo run`.
        input: The input of the file's pipeline; JSON if its first step takes anything but a string.
        size: Steps in one run; may be given several times. 100, 1000 and 10000 by default.
        repeats: Measurements, of which the median counts.
        json: Print what was measured as one JSON document.
    """
    if (file is None) != (input is None):
        raise WrongUsageError("a FILE and its --input belong together; give both, or neither to measure flujo itself")
    if file is None or input is None:
        return _bench_flujo(size or SIZES, repeats, is_json=json)
    if size is not None:
        raise WrongUsageError("--size is for measuring flujo itself; a pipeline has the size that it has")
    return _bench_file(file, input, repeats, is_json=json)


def _bench_flujo(sizes: tuple[int, ...], repeats: int, *, is_json: bool) -> ExitCode:
    if not is_json:
        say("measuring ...")
    measured = list(measure_scenarios(sizes=sizes, repeats=repeats))
    if is_json:
        print(Report(scenarios=measured).model_dump_json(indent=2))
    else:
        Console().print(scenario_table(measured))
    return ExitCode.SUCCESS


def _bench_file(file: str, text: str, repeats: int, *, is_json: bool) -> ExitCode:
    results = ResultStream(sys.stdout)
    with redirect_stdout(sys.stderr):  # stdout is for results, so what the user's code prints goes elsewhere
        workflow = load_file(file).workflow
        runner: Flujo[Any, Any] = workflow if isinstance(workflow, Flujo) else Flujo(workflow)
        runner.check()
        data = input_for(runner.pipeline.steps[0], text)
        try:
            measured = measure_pipeline(runner, data, repeats=repeats)
        except UsageLimitExceededError as exceeded:
            say_error(str(exceeded))
            return ExitCode.LIMIT
        except BenchmarkError as error:
            say_error(str(error))
            return ExitCode.WAITING if error.status == "paused" else ExitCode.FAILED
    results.write(Report(pipeline=measured).model_dump_json(indent=2) if is_json else pipeline_line(measured))
    results.end_line()
    return ExitCode.SUCCESS
