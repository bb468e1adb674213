"""Bytes per iteration of a loop of 100,000 iterations.

Counts with tracemalloc what Python allocates while the loop runs (peak) and what is left with its result (kept),
and divides both by the iterations. The integer that each iteration gives is counted too.
"""

import cyclopts

from flujo.bench.memory import ITERATIONS, measure_memory
from flujo.bench.scenarios import SCENARIOS


def main(*, iterations: int = ITERATIONS, json: bool = False) -> None:
    (loop,) = (scenario for scenario in SCENARIOS if scenario.name == "loop")
    measured = measure_memory(loop, iterations)
    if json:
        print(measured.model_dump_json(indent=2))
    else:
        print(f"loop of {measured.size:,} iterations, bytes per iteration:")
        print(f"  kept {measured.kept_bytes:.0f}, at most {measured.peak_bytes:.0f}")


if __name__ == "__main__":
    cyclopts.run(main)
