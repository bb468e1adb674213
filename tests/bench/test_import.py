"""What `import flujo` loads."""

import subprocess
import sys

_MOST_MODULES = 400
"""Beyond those that Python loads itself; importing pydantic's BaseModel alone is about 200."""


def _loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    listing = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(listing.stdout.split())


def test_importing_flujo_loads_few_modules() -> None:
    """`import flujo` stays small, and leaves what only the command line needs alone."""
    loaded = _loaded_by("import flujo") - _loaded_by("pass")

    assert len(loaded) < _MOST_MODULES
    assert not any(name.partition(".")[0] in {"rich", "cyclopts"} or name.startswith("flujo.bench") for name in loaded)
