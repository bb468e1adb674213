"""Lets whatever asks a model with pydantic-ai within a step of flujo's be paid by that step, wherever it does.

An agent that a tool, a function, a validator, a plugin or a processor runs is no step, and nobody hands it a meter.
pydantic-ai has no place to say something for all agents at once, so what every request goes through is wrapped, as
soon as pydantic-ai is imported by whoever needs it. Outside of steps it does what it did.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from flujo.domain.paying_step import PayingStep, paying_step


def meter_nested_runs() -> None:
    """Let requests to models be paid by the steps around them, now or once pydantic-ai is imported."""
    for name, wrap in (("pydantic_ai", _wrap_runs), ("pydantic_ai.direct", _wrap_direct_requests)):
        if (module := sys.modules.get(name)) is not None:
            wrap(module)
        else:
            sys.meta_path.insert(0, _AfterImport(name, wrap))


def _wrap_runs(pydantic_ai: Any) -> None:
    pydantic_ai.Agent.iter = _paid(pydantic_ai.Agent.iter)  # every run of an agent goes through it
    pydantic_ai.Embedder._get_model = _with_paid_model(pydantic_ai.Embedder._get_model, _pay_for_embeddings)


def _wrap_direct_requests(direct: Any) -> None:
    direct._prepare_model = _with_paid_model(direct._prepare_model, _pay_for_answers)
    direct.model_request_batch = _bounded(direct.model_request_batch)


def _paid(iterate: Callable[..., Any]) -> Callable[..., Any]:
    """Return what starts a run of an agent, which is paid by the step that is around it then."""

    @functools.wraps(iterate)
    def start(agent: Any, *args: Any, capabilities: Sequence[Any] | None = None, **options: Any) -> Any:
        if (step := paying_step()) is not None:
            from flujo.agents.metered_model import with_meter

            capabilities = with_meter(step, capabilities or ())
        return iterate(agent, *args, capabilities=capabilities, **options)

    return start


def _with_paid_model(get_model: Callable[..., Any], pay: Callable[[PayingStep, Any], Any]) -> Callable[..., Any]:
    """Return what gives a model the requests of which are paid by the step around them, made so by `pay`."""

    @functools.wraps(get_model)
    def get(*args: Any) -> Any:
        model = get_model(*args)
        return model if (step := paying_step()) is None else pay(step, model)

    return get


def _pay_for_embeddings(step: PayingStep, model: Any) -> Any:
    from flujo.agents.embedding import paid_by

    return paid_by(step, model)


def _pay_for_answers(step: PayingStep, model: Any) -> Any:
    from flujo.agents.metered_model import paid_by

    return paid_by(step, model)


def _bounded(request_batch: Callable[..., Any]) -> Callable[..., Any]:
    """Return what sends requests as a batch, but not within a step that has a limit."""

    @functools.wraps(request_batch)
    def request(*args: Any, **options: Any) -> Any:
        if (step := paying_step()) is not None:
            from flujo.agents.metered_model import look_at_batch

            look_at_batch(step)
        return request_batch(*args, **options)

    return request


class _AfterImport(MetaPathFinder):
    """Does something with a module as soon as that has been imported.

    Args:
        name: The name of the module.
        then: Called with it.
    """

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module where it would have been found, and see to its loading."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """Loads a module as its own loader does, and says so."""

    def __init__(self, loader: Loader, finder: _AfterImport) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the module as its loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, which knows of its own loader only."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        sys.meta_path.remove(self._finder)
        self._finder.then(module)
