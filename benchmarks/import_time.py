"""What `import flujo` takes over bare Python and over pydantic.

Starts interpreters that run nothing, import pydantic or import flujo, in turns, and takes the median of the CPU
time of each, start and end of the interpreter included. The first start of each writes the bytecode and is not
counted; `PYTHONDONTWRITEBYTECODE`, which would double the times, is unset. Needs the `resource` module of Unix.
"""

import os
import resource
import subprocess
import sys
from statistics import median

import cyclopts
from pydantic import BaseModel

REPEATS = 15


class ImportTimes(BaseModel):
    """CPU milliseconds of an interpreter from start to end."""

    bare_python_ms: float
    import_pydantic_ms: float
    import_flujo_ms: float


def measure_imports(repeats: int = REPEATS) -> ImportTimes:
    statements = ("pass", "from pydantic import BaseModel", "import flujo")  # pydantic itself loads on first use
    for statement in statements:
        _cpu_ms(statement)
    rounds = [[_cpu_ms(statement) for statement in statements] for _ in range(repeats)]
    bare, pydantic, flujo = (median(each) for each in zip(*rounds, strict=True))
    return ImportTimes(bare_python_ms=bare, import_pydantic_ms=pydantic, import_flujo_ms=flujo)


def _cpu_ms(statement: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main(*, repeats: int = REPEATS, json: bool = False) -> None:
    times = measure_imports(repeats)
    if json:
        print(times.model_dump_json(indent=2))
    else:
        print(f"import flujo: {times.import_flujo_ms - times.bare_python_ms:.0f} ms over bare Python, ", end="")
        print(f"{times.import_flujo_ms - times.import_pydantic_ms:.0f} ms over pydantic")


if __name__ == "__main__":
    cyclopts.run(main)
