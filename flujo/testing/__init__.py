"""What users test their workflows with: scripted agents and plugins, a manual clock, assertions."""

from flujo.testing.agents import DummyPlugin, FailingStreamAgent, StubAgent, override_agent
from flujo.testing.assertions import (
    assert_context_updated,
    assert_pipeline_result,
    assert_validator_failed,
    gather_result,
)
from flujo.testing.clock import ManualClock
from flujo.testing.stores import FailingCache

__all__ = [
    "DummyPlugin",
    "FailingCache",
    "FailingStreamAgent",
    "ManualClock",
    "StubAgent",
    "assert_context_updated",
    "assert_pipeline_result",
    "assert_validator_failed",
    "gather_result",
    "override_agent",
]
