"""flujo runs AI workflows: typed pipelines of agents and functions, under budgets, with people in the loop."""

import importlib
from typing import TYPE_CHECKING

from flujo.agents.making import make_agent_async
from flujo.agents.model_agent import adapt
from flujo.agents.nested_runs import meter_nested_runs
from flujo.agents.prices import set_price
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.ultra_executor import ExecutorCore, StepExecutor
from flujo.application.pipeline_run import PipelineRun
from flujo.application.runner import Flujo
from flujo.cache.backends import ICacheBackend, InMemoryCache
from flujo.cache.sqlite import SQLiteCache
from flujo.domain.agents import Partial, adapt_agents_of
from flujo.domain.budgets import AmountLimits, Amounts, Budget, BudgetStatus
from flujo.domain.cost_ceiling import Ceiling, CostCeiling
from flujo.domain.models import (
    AppResources,
    BranchFailureStrategy,
    HumanInteraction,
    MergeStrategy,
    PipelineContext,
    RefinementCheck,
    StepPath,
    UsageLimits,
)
from flujo.domain.observers import (
    Hook,
    HookPayload,
    OnPausePayload,
    OnStepFailurePayload,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    UsageLevel,
)
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationFinding, ValidationReport
from flujo.domain.policies import (
    AgentProcessors,
    BaseValidator,
    PluginOutcome,
    StepConfig,
    ValidationPlugin,
    ValidationResult,
    Validator,
    validator,
)
from flujo.domain.prompts import PromptTemplate
from flujo.domain.results import PipelineResult, StepResult, TraceNode, Waiting
from flujo.exceptions import (
    AgentIOValidationError,
    AnswerRejectedError,
    BadCredentialsError,
    BudgetNotFoundError,
    ConfigurationError,
    ContentRefusedError,
    ContextInheritanceError,
    ContextTooLongError,
    ContextUpdateError,
    FlujoError,
    ImproperStepInvocationError,
    InfiniteFallbackError,
    InfiniteRedirectError,
    MissingAgentError,
    NonRetryableError,
    OverloadedError,
    PausedException,
    PipelineAbortSignal,
    PipelineChangedError,
    PipelineContextInitializationError,
    PricingNotConfiguredError,
    QuotaExceededError,
    RateLimitedError,
    RefusedCallError,
    RetryLaterError,
    RunNotFoundError,
    RunOwnedError,
    SchemaTooNewError,
    SerializationError,
    SettingsError,
    StateCorruptedError,
    StateError,
    TypeMismatchError,
    UnboundedCallError,
    UsageLimitExceededError,
)
from flujo.state.backend import StateBackend
from flujo.state.budgets import BudgetStore
from flujo.state.memory import InMemoryBackend
from flujo.state.records import RunQuery, RunRecord
from flujo.steps.step import Step, adapter_step, step
from flujo.utils.task_groups import mend_task_groups

if TYPE_CHECKING:
    from flujo.state.postgres import PostgresBackend
    from flujo.state.sqlite import SQLiteBackend
    from flujo.testing import (
        DummyPlugin,
        FailingCache,
        FailingStreamAgent,
        ManualClock,
        StubAgent,
        assert_context_updated,
        assert_pipeline_result,
        assert_validator_failed,
        gather_result,
        override_agent,
    )

adapt_agents_of("pydantic_ai", adapt)
meter_nested_runs()
mend_task_groups()

_LAZY = {
    "PostgresBackend": "flujo.state.postgres",
    "SQLiteBackend": "flujo.state.sqlite",
    **dict.fromkeys(
        (
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
        ),
        "flujo.testing",
    ),
}
"""What only some programs need, by the module that has it; imported when it is first asked for."""

if not TYPE_CHECKING:  # type checkers would take every name for one that there is

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(_LAZY[name]), name)
        return value


__all__ = [
    "AgentIOValidationError",
    "AgentProcessors",
    "AmountLimits",
    "Amounts",
    "AnswerRejectedError",
    "AppResources",
    "BadCredentialsError",
    "BaseStep",
    "BaseValidator",
    "BranchFailureStrategy",
    "Budget",
    "BudgetNotFoundError",
    "BudgetStatus",
    "BudgetStore",
    "Ceiling",
    "ConfigurationError",
    "ContentRefusedError",
    "ContextInheritanceError",
    "ContextTooLongError",
    "ContextUpdateError",
    "CostCeiling",
    "DummyPlugin",
    "ExecutionFrame",
    "ExecutorCore",
    "FailingCache",
    "FailingStreamAgent",
    "Flujo",
    "FlujoError",
    "Hook",
    "HookPayload",
    "HumanInteraction",
    "ICacheBackend",
    "ImproperStepInvocationError",
    "InMemoryBackend",
    "InMemoryCache",
    "InfiniteFallbackError",
    "InfiniteRedirectError",
    "ManualClock",
    "MergeStrategy",
    "MissingAgentError",
    "NonRetryableError",
    "OnPausePayload",
    "OnStepFailurePayload",
    "OverloadedError",
    "Partial",
    "PausedException",
    "Pipeline",
    "PipelineAbortSignal",
    "PipelineChangedError",
    "PipelineContext",
    "PipelineContextInitializationError",
    "PipelineResult",
    "PipelineRun",
    "PluginOutcome",
    "PostRunPayload",
    "PostStepPayload",
    "PostgresBackend",
    "PreRunPayload",
    "PreStepPayload",
    "PricingNotConfiguredError",
    "PromptTemplate",
    "QuotaExceededError",
    "RateLimitedError",
    "RefinementCheck",
    "RefusedCallError",
    "RetryLaterError",
    "RunNotFoundError",
    "RunOwnedError",
    "RunQuery",
    "RunRecord",
    "SQLiteBackend",
    "SQLiteCache",
    "SchemaTooNewError",
    "SerializationError",
    "SettingsError",
    "StateBackend",
    "StateCorruptedError",
    "StateError",
    "Step",
    "StepConfig",
    "StepExecutor",
    "StepPath",
    "StepResult",
    "StubAgent",
    "TraceNode",
    "TypeMismatchError",
    "UnboundedCallError",
    "UsageLevel",
    "UsageLimitExceededError",
    "UsageLimits",
    "ValidationFinding",
    "ValidationPlugin",
    "ValidationReport",
    "ValidationResult",
    "Validator",
    "Waiting",
    "adapter_step",
    "assert_context_updated",
    "assert_pipeline_result",
    "assert_validator_failed",
    "gather_result",
    "make_agent_async",
    "override_agent",
    "set_price",
    "step",
    "validator",
]
