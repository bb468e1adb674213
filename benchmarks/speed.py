"""CPU time per step, flujo beside plain asyncio.

Runs the scenarios of `flujo.bench` (steps in sequence, iterations of a loop, parallel branches that report usage
under limits, items of a map) at several sizes, both sides in turns in one process and one event loop.
What is shown is the median of the CPU time of whole runs, divided by their steps; pipelines are declared before.
"""

import cyclopts
from rich.console import Console

from flujo.bench.measuring import REPEATS, SIZES, measure_scenarios
from flujo.bench.report import Report, scenario_table


def main(*, sizes: tuple[int, ...] = SIZES, repeats: int = REPEATS, json: bool = False) -> None:
    measurements = list(measure_scenarios(sizes=sizes, repeats=repeats))
    if json:
        print(Report(scenarios=measurements).model_dump_json(indent=2))
    else:
        Console().print(scenario_table(measurements))


if __name__ == "__main__":
    cyclopts.run(main)
