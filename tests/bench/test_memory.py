"""What a long loop keeps in memory."""

from flujo.bench.memory import measure_memory
from flujo.bench.scenarios import SCENARIOS

_CEILING_BYTES = 200


def test_an_iteration_keeps_less_than_200_bytes() -> None:
    """A loop of 100,000 iterations keeps, and holds at any time, less than 200 bytes for each."""
    (loop,) = (scenario for scenario in SCENARIOS if scenario.name == "loop")

    measured = measure_memory(loop, 100_000)

    assert measured.kept_bytes < _CEILING_BYTES
    assert measured.peak_bytes < _CEILING_BYTES


def test_what_is_kept_is_seen() -> None:
    """Every branch keeps its own context besides its result, which is far more than a loop may keep."""
    (parallel,) = (scenario for scenario in SCENARIOS if scenario.name == "parallel")

    measured = measure_memory(parallel, 1_000)

    assert measured.size == 1_000
    assert measured.peak_bytes >= measured.kept_bytes > _CEILING_BYTES
