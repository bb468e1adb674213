"""`flujo doctor`: says whether a database of runs is healthy, and what is wrong with which run."""

import sys
from typing import Annotated

from cyclopts import Parameter
from pydantic_core import to_json

from flujo.cli.exit_codes import ExitCode
from flujo.cli.formats import count
from flujo.cli.parameters import FreeText
from flujo.cli.stores import existing_database
from flujo.cli.terminal import ResultStream
from flujo.state.checkup import Checkup, check_database
from flujo.state.findings import Finding


def doctor(*, state_db: Annotated[FreeText, Parameter(metavar="PATH")] | None = None, json: bool = False) -> ExitCode:
    """Check the database of runs and budgets, and say what is wrong with which; nothing is changed.

    Each run, each entry of its journal and each budget is compared with the checksums it was written with, and what
    budgets have reserved with their calls. Runs and budgets that are not named are whole, and go on as ever.

    Exit codes: **0** healthy, **1** damaged, **2** there is no such database.

    Args:
        state_db: The database.
        json: Print what was found as one JSON document.
    """
    checkup = check_database(existing_database(state_db))
    ResultStream(sys.stdout).write(_document(checkup) if json else _lines(checkup))
    return ExitCode.SUCCESS if checkup.is_healthy else ExitCode.FAILED


def _lines(checkup: Checkup) -> str:
    lines = [_line(finding) for finding in checkup.findings]
    damages = sum(finding.is_damage for finding in checkup.findings)
    contents = f"{count(checkup.runs, 'run')}, {count(checkup.entries, 'entry', 'entries')}, "
    contents += f"{count(checkup.budgets, 'budget')}, " if checkup.budgets else ""
    contents += f"schema {checkup.schema}"
    state = f"damaged, {count(damages, 'finding')}" if damages else "healthy"
    return "".join(f"{line}\n" for line in [*lines, f"{checkup.path} is {state}: {contents}"])


def _line(finding: Finding) -> str:
    where = "" if finding.run_id is None else f"run {finding.run_id!r}: "
    where = where if finding.budget is None else f"budget {finding.budget!r}: "
    return f"{'damage' if finding.is_damage else 'note'}: {where}{finding.message}"


def _document(checkup: Checkup) -> str:
    document = {
        "path": str(checkup.path),
        "is_healthy": checkup.is_healthy,
        "schema": checkup.schema,
        "runs": checkup.runs,
        "entries": checkup.entries,
        "budgets": checkup.budgets,
        "findings": [
            {"run_id": each.run_id, "budget": each.budget, "message": each.message, "is_damage": each.is_damage}
            for each in checkup.findings
        ],
    }
    return to_json(document, indent=2).decode() + "\n"
