"""`flujo validate`: says what a run of a workflow would refuse, without running it."""

import sys
from contextlib import redirect_stdout

from pydantic_core import to_json

from flujo.application.runner import Flujo
from flujo.cli.ceiling_table import ceiling_document, ceiling_lines, ceiling_table
from flujo.cli.exit_codes import ExitCode
from flujo.cli.formats import count
from flujo.cli.loading import load_file
from flujo.cli.settings import read_run_settings
from flujo.cli.terminal import ResultStream, table_console
from flujo.domain.cost_ceiling import CostCeiling
from flujo.domain.pipeline import ValidationFinding, ValidationReport


def validate(file: str, /, *, context_model: str | None = None, cost: bool = False, json: bool = False) -> ExitCode:
    """Check the workflow in a Python file without running it.

    Prints one line for each error and warning. Exit codes: **0** a run may start, warnings or not, **2** it may not.
    A cost without a bound is no error.

    Args:
        file: A Python file, or FILE:NAME for one of its variables.
        context_model: The pydantic model in the file that is the run's context; by default that of the Flujo.
        cost: Show besides what a run can cost at the most, by step, and what makes it unbounded. The limits of the
            Flujo in the file count, and those of `flujo.toml` and the environment.
        json: Print what was found as one JSON document.
    """
    limits = read_run_settings({}).usage_limits() if cost else None
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):  # the user's file may print
        loaded = load_file(file)
        model = loaded.runner.context_model if isinstance(loaded.workflow, Flujo) else None
        if context_model is not None:
            model = loaded.context_model(context_model)
        pipeline = loaded.runner.pipeline
        report = pipeline.validate_graph(model)
        ceiling = loaded.runner.with_settings(usage_limits=limits).cost_ceiling() if cost else None
    results = ResultStream(stdout)
    if json:
        results.write(_document(report, ceiling))
        return _exit_code(report)
    results.write(_lines(report, file, len(pipeline.steps)))
    if ceiling is not None:
        table_console().print(ceiling_table(ceiling))
        results.write("".join(f"{line}\n" for line in ceiling_lines(ceiling)))
    return _exit_code(report)


def _exit_code(report: ValidationReport) -> ExitCode:
    return ExitCode.SUCCESS if report.is_valid else ExitCode.WRONG_USAGE


def _lines(report: ValidationReport, file: str, step_count: int) -> str:
    lines = [f"error: {finding}" for finding in report.errors] + [f"warning: {finding}" for finding in report.warnings]
    if report.is_valid:
        lines.append(f"{file} is valid: {count(step_count, 'step')}, {count(len(report.warnings), 'warning')}")
    return "".join(f"{line}\n" for line in lines)


def _document(report: ValidationReport, ceiling: CostCeiling | None) -> str:
    document: dict[str, object] = {
        "is_valid": report.is_valid,
        "errors": [_finding(finding) for finding in report.errors],
        "warnings": [_finding(finding) for finding in report.warnings],
    }
    if ceiling is not None:
        document["cost_ceiling"] = ceiling_document(ceiling)
    return to_json(document, indent=2).decode() + "\n"


def _finding(finding: ValidationFinding) -> dict[str, str]:
    return {"step_name": finding.step_name, "message": finding.message}
