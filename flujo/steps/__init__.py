"""The kinds of step: one file for each, declaration and handler together.

Importing the package registers all handlers, so that whoever holds a step can run it.
"""

from flujo.application.core import agent_step, sequence
from flujo.steps import cached, conditional, gather, hitl, loop, map, parallel, refine, router, sub_pipeline

__all__ = [
    "agent_step",
    "cached",
    "conditional",
    "gather",
    "hitl",
    "loop",
    "map",
    "parallel",
    "refine",
    "router",
    "sequence",
    "sub_pipeline",
]
