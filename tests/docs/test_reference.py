"""The reference pages leave nothing out."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from flujo import PipelineResult, StepResult
from flujo.cli.bench_command import bench
from flujo.cli.budget_command import set_budget, top_up
from flujo.cli.budget_command import show as show_budget
from flujo.cli.doctor_command import doctor
from flujo.cli.exit_codes import ExitCode
from flujo.cli.lens_command import list_runs, stats, trace
from flujo.cli.lens_command import show as show_run
from flujo.cli.resume_command import resume
from flujo.cli.run_command import run
from flujo.cli.show_command import show
from flujo.cli.validate_command import validate
from flujo.domain.results import RunStatus
from tests.house.source import REPOSITORY

_RESULTS = (REPOSITORY / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
_COMMAND_LINE = (REPOSITORY / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
_FIRST_CELL = re.compile(r"^\| (.+?) \|", re.MULTILINE)


def _section(page: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its level."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _listed(section: str) -> set[str]:
    """Return the names in the first column of the tables of a section."""
    return {name for cell in _FIRST_CELL.findall(section) for name in re.findall(r"`(\w+)`", cell)}


def test_every_attribute_of_a_result_is_listed() -> None:
    """The tables have the public attributes of both kinds of result."""
    of_run = {*PipelineResult.model_fields, *PipelineResult.model_computed_fields, "trace_tree"} - {"resume_point"}

    assert _listed(_section(_RESULTS, "`PipelineResult`")) == of_run
    assert set(StepResult("step").as_dict()) <= _listed(_section(_RESULTS, "`StepResult`"))


def test_every_status_is_listed() -> None:
    """The table of statuses has them all."""
    assert _listed(_section(_RESULTS, "Statuses")) == set(get_args(RunStatus))


@pytest.mark.parametrize(
    ("heading", "command"),
    [
        *[(each.__name__, each) for each in (run, resume, validate, show, doctor, bench)],
        *[("budget", each) for each in (show_budget, set_budget, top_up)],
        *[("lens", each) for each in (list_runs, show_run, trace, stats)],
    ],
)
def test_every_option_of_a_command_is_listed(heading: str, command: Callable[..., Any]) -> None:
    """The section of a command names its options."""
    section = _section(_COMMAND_LINE, f"`flujo {heading}`")
    options = [
        f"--{name.replace('_', '-')}"
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]

    assert options
    assert [option for option in options if not re.search(rf"{option}\b", section)] == []


def test_every_exit_code_is_listed() -> None:
    """The table of exit codes has them all."""
    codes = {int(cell) for cell in _FIRST_CELL.findall(_section(_COMMAND_LINE, "Exit codes")) if cell.isdecimal()}

    assert codes == set(ExitCode)
