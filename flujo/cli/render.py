"""Draws a workflow: as a tree, and as a mermaid flowchart.

Both walk `BaseStep.children()`, so that a kind of step of the user's own is drawn too; the kinds that choose,
repeat or branch are drawn with what makes them so.

The flowchart has one node for each step that does something itself. A composite is a subgraph around its steps,
and arrows go from step to step, never to a subgraph, because not every renderer of mermaid can draw those.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text
from rich.tree import Tree

from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.steps.conditional import ConditionalStep
from flujo.steps.hitl import HumanInTheLoopStep
from flujo.steps.loop import LoopStep
from flujo.steps.map import MapStep
from flujo.steps.parallel import ParallelStep
from flujo.steps.refine import RefineStep

Step = BaseStep[Any, Any]


def kind_of(step: Step) -> str:
    """Return what a step is, in words: `loop, at most 5 times` or `parallel`; nothing for a plain step."""
    match step:
        case LoopStep():
            return f"loop, at most {step.max_loops} times"
        case RefineStep():
            return f"refine, at most {step.max_refinements} times"
        case MapStep():
            return "for each item" + (f" of {step.iterable_input}" if step.iterable_input else "")
        case HumanInTheLoopStep():
            return "waits for a person"
        case _:
            words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", type(step).__name__.removesuffix("Step"))
            kind = " ".join(words).lower()
            return "" if kind == "agent" else kind


def tree(pipeline: Pipeline[Any, Any], name: str) -> Tree:
    """Return a pipeline as a rich tree."""
    root = Tree(Text(name, style="bold"))
    _grow(root, pipeline)
    return root


def _grow(node: Tree, step: Step) -> None:
    for part, child in step.children():
        _add(node, "" if part.isdecimal() else part.replace(":", " ", 1), child)
    if step.fallback_step is not None:
        _add(node, "fallback", step.fallback_step)


def _add(node: Tree, part: str, child: Step) -> None:
    """Add a step under a node; a pipeline is drawn as its steps."""
    if isinstance(child, Pipeline):
        _grow(node.add(Text(part, style="dim")) if part else node, child)
        return
    line = Text(f"{part}: " if part else "", style="dim")
    line.append(child.name, style="not dim cyan")
    if kind := kind_of(child):
        line.append(f" ({kind})")
    _grow(node.add(line), child)


@dataclass(slots=True, frozen=True)
class _Ends:
    """Where arrows enter what was drawn, and where they leave it."""

    entries: Sequence[str]
    exits: Sequence[str]


@dataclass(slots=True)
class _Chart:
    """A flowchart while it is drawn."""

    lines: list[str] = field(default_factory=lambda: ["flowchart TD"])
    arrows: list[str] = field(default_factory=list[str])
    nodes: int = 0

    def draw(self, step: Step, indent: str) -> _Ends:
        """Draw a step and what is within it."""
        ends = self._draw_alone(step, indent)
        if step.fallback_step is None:
            return ends
        rescue = self.draw(step.fallback_step, indent)
        self._connect(ends.exits, rescue.entries, "-.->", "on failure")
        return _Ends(ends.entries, [*ends.exits, *rescue.exits])

    def _draw_alone(self, step: Step, indent: str) -> _Ends:
        children = list(step.children())
        if isinstance(step, Pipeline):
            return self._draw_sequence([child for _, child in children], indent)
        if not children:
            shape = ("[/", "/]") if isinstance(step, HumanInTheLoopStep) else ("[", "]")
            node = self._node(step.name, shape, indent)
            return _Ends([node], [node])
        self.lines.append(f"{indent}subgraph {self._new_name('group')}[{_quoted(_title(step))}]")
        ends = self._draw_composite(step, children, indent + "    ")
        self.lines.append(f"{indent}end")
        return ends

    def _draw_composite(self, step: Step, children: Iterable[tuple[str, Step]], indent: str) -> _Ends:
        if isinstance(step, ConditionalStep | ParallelStep):
            shape = ("{", "}") if isinstance(step, ConditionalStep) else ("[[", "]]")
            return self._draw_branches(self._node(step.name, shape, indent), children, indent)
        ends = self._draw_sequence([child for _, child in children], indent)
        if isinstance(step, LoopStep | RefineStep):
            self._connect(ends.exits, ends.entries, "-.->", "again")
        return ends

    def _draw_branches(self, fork: str, children: Iterable[tuple[str, Step]], indent: str) -> _Ends:
        entries, exits = [fork], list[str]()
        for part, child in children:
            branch = self.draw(child, indent)
            if part == "router":  # it is asked first, and names the branches
                self._connect(branch.exits, [fork], "-->")
                entries = list(branch.entries)
            else:
                self._connect([fork], branch.entries, "-->", part.removeprefix("branch:"))
                exits += branch.exits
        return _Ends(entries, exits)

    def _draw_sequence(self, steps: Sequence[Step], indent: str) -> _Ends:
        first, *others = [self.draw(step, indent) for step in steps]
        last = first
        for following in others:
            self._connect(last.exits, following.entries, "-->")
            last = following
        return _Ends(first.entries, last.exits)

    def _connect(self, sources: Iterable[str], targets: Sequence[str], arrow: str, label: str = "") -> None:
        text = f"|{_quoted(label)}|" if label else ""
        self.arrows += [f"    {source} {arrow}{text} {target}" for source in sources for target in targets]

    def _node(self, name: str, shape: tuple[str, str], indent: str) -> str:
        node = self._new_name("step")
        self.lines.append(f"{indent}{node}{shape[0]}{_quoted(name)}{shape[1]}")
        return node

    def _new_name(self, prefix: str) -> str:
        self.nodes += 1
        return f"{prefix}{self.nodes}"


def mermaid(pipeline: Pipeline[Any, Any]) -> str:
    """Return a pipeline as a mermaid flowchart."""
    chart = _Chart()
    chart.draw(pipeline, "    ")
    return "".join(f"{line}\n" for line in [*chart.lines, *chart.arrows])


def _title(step: Step) -> str:
    kind = kind_of(step)
    return f"{step.name} ({kind})" if kind else step.name


def _quoted(text: str) -> str:
    """Return text as a mermaid label, with the characters that mean something there as entities."""
    flat = " ".join(text.split()) or " "
    return '"' + re.sub(r'["#&<>|`\\\[\]{}]', lambda found: f"#{ord(found[0])};", flat) + '"'
