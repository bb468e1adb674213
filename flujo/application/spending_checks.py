"""What is checked before a run begins, so that its limits and budgets can hold: nothing has been spent yet."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from flujo.agents.prices import no_price
from flujo.domain.budgets import Budget
from flujo.domain.models import UsageLimits
from flujo.domain.pipeline import BaseStep, SubPipelineStep
from flujo.domain.step import AgentStep
from flujo.exceptions import ConfigurationError, UnboundedCallError
from flujo.state.backend import StateBackend
from flujo.state.budgets import BudgetStore
from flujo.steps.sub_pipeline import RunnerSettings


def checked_budgets(
    pipeline: BaseStep[Any, Any], budgets: Sequence[Budget], store: StateBackend | None
) -> tuple[Budget, ...]:
    """Return the budgets of a runner and of those that are steps of it.

    Args:
        pipeline: What the runner runs.
        budgets: Those of the runner itself.
        store: Where it keeps its runs.

    Raises:
        ConfigurationError: There is no store for them, they are to be kept in another one, or two of one name differ.
        PricingNotConfiguredError: An agent under a budget in dollars has no price.
    """
    around: list[tuple[BaseStep[Any, Any], Sequence[Budget]]] = [(pipeline, budgets)]
    for step, settings in _runners_within(pipeline):
        if settings.store not in (None, store):
            raise ConfigurationError(
                f"{step.describe()} keeps its budgets in another store than the run; "
                "give both runners the same state_backend"
            )
        around.append((step, settings.budgets))
    found = all_budgets(pipeline, budgets)
    if found and not isinstance(store, BudgetStore):
        what = "has no store" if store is None else "has a store that keeps no budgets"
        raise ConfigurationError(
            f"budgets are kept in a store, and the runner {what}; give it a state_backend such as SQLiteBackend"
        )
    for step, those in around:
        if any(budget.usd is not None for budget in those):
            _refuse_unpriced(step)
    return found


def all_budgets(pipeline: BaseStep[Any, Any], budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """Return the budgets of a runner and of those that are steps of it."""
    within = [budget for _, settings in _runners_within(pipeline) for budget in settings.budgets]
    return distinct_budgets([*budgets, *within])


def _runners_within(pipeline: BaseStep[Any, Any]) -> Iterator[tuple[BaseStep[Any, Any], RunnerSettings]]:
    """Yield the steps that are runners with budgets."""
    for step in pipeline.walk():
        if isinstance(step, SubPipelineStep):
            settings: RunnerSettings | None = step.settings
            if settings is not None and settings.budgets:
                yield cast("BaseStep[Any, Any]", step), settings


def distinct_budgets(budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """Return budgets, each once."""
    by_name = dict[str, Budget]()
    if not isinstance(budgets, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ConfigurationError(f"the runner: budgets is {budgets!r}; give a list of Budget(...)")
    for budget in budgets:
        if not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance]  # likewise
            raise ConfigurationError(f"the runner: a budget is {budget!r}; give Budget(name, usd=...)")
        if by_name.setdefault(budget.name, budget) != budget:
            raise ConfigurationError(f"two budgets are called {budget.name!r} and differ; give each a name of its own")
    return tuple(by_name.values())


def refuse_unbounded(step: BaseStep[Any, Any], limits: UsageLimits | None) -> None:
    """Raise if a limit cannot hold for an agent: a strict one without a bound, one in dollars without a price."""
    around = [(step, limits), *((each, each.usage_limits) for each in step.walk())]
    for outer, limit in [(outer, limit) for outer, limit in around if limit is not None]:
        for each in outer.walk():
            if isinstance(each, AgentStep):
                _refuse_agent(each, limit)


def _refuse_agent(step: AgentStep[Any, Any], limit: UsageLimits) -> None:
    if limit.strict and not step.is_bounded:
        raise UnboundedCallError(
            f"{step.describe()} is under a strict limit, and its agent may report any cost; give it max_cost_usd, or "
            "an agent that answers with a type that reports none, such as str"
        )
    if limit.mode == "hard" and limit.total_cost_usd_limit is not None:
        _refuse_unpriced_agent(step)


def _refuse_unpriced(step: BaseStep[Any, Any]) -> None:
    """Raise if an agent at work in a step has no price."""
    for each in step.walk():
        if isinstance(each, AgentStep):
            _refuse_unpriced_agent(each)


def _refuse_unpriced_agent(step: AgentStep[Any, Any]) -> None:
    if step.max_cost is not None or step.call is None or step.call.adapted is None:
        return
    model = step.call.adapted.unpriced_model()
    if model is not None:
        raise no_price(model)
