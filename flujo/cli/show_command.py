"""`flujo show`: draws a workflow as a tree or as a mermaid flowchart."""

import sys
from contextlib import redirect_stdout
from typing import Literal

from flujo.cli.loading import load_file
from flujo.cli.render import mermaid, tree
from flujo.cli.terminal import OutputConsole, ResultStream


def show(file: str, /, *, format: Literal["tree", "mermaid"] = "tree") -> None:
    """Draw the workflow in a Python file.

    Args:
        file: A Python file, or FILE:NAME for one of its variables.
        format: A tree for people, or a mermaid flowchart for documents.
    """
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):  # the user's file may print
        runner = load_file(file).runner
    if format == "mermaid":
        ResultStream(stdout).write(mermaid(runner.pipeline))
    else:
        OutputConsole().print(tree(runner.pipeline, runner.pipeline_name), soft_wrap=True)
