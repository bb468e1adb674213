"""The kinds of step: one file for each, declaration and handler together.

Importing the package registers all handlers, so that whoever holds a step can run it.
"""

from flujo.application.core import agent_step, sequence
from flujo.steps import cached, conditional, gather, hitl, loop, parallel, refine, router, sub_pipeline
from flujo.steps import map as map_step

__all__ = [
    "agent_step",
    "cached",
    "conditional",
    "gather",
    "hitl",
    "loop",
    "map_step",
    "parallel",
    "refine",
    "router",
    "sequence",
    "sub_pipeline",
]
