"""Which classes a cached step may find in a cache."""

from collections.abc import Iterable
from typing import Any

from flujo.domain.models import HumanInteraction, PipelineContext, RefinementCheck
from flujo.domain.pipeline import BaseStep, SubPipelineStep
from flujo.domain.policies import ValidationResult
from flujo.domain.results import PipelineResult
from flujo.utils.declared_types import DeclaredTypes

_OF_FLUJO = (HumanInteraction, PipelineContext, PipelineResult, RefinementCheck, ValidationResult)

_WRITTEN_HERE = DeclaredTypes()


class StoredTypes(DeclaredTypes):
    """The classes that a step declares, and those whose values this process itself has written to a cache.

    So a result is read back where it was made whether or not its type is declared, and elsewhere if it is.
    """

    def __contains__(self, cls: type) -> bool:
        """Declare a class, as a value of it is about to be written."""
        if not super().__contains__(cls):
            self.add(cls)
            _WRITTEN_HERE.add(cls)
        return super().__contains__(cls)

    def find(self, name: str) -> type | None:
        """Return the class of that name, or `None`."""
        return super().find(name) or _WRITTEN_HERE.find(name)


def stored_types(step: BaseStep[Any, Any]) -> StoredTypes:
    """Return what a step and those within it declare."""
    return StoredTypes([*_OF_FLUJO, *(each for inner in step.walk() for each in _declared(inner))])


def _declared(step: BaseStep[Any, Any]) -> Iterable[Any]:
    yield step.input_type
    yield step.output_type
    if isinstance(step, SubPipelineStep) and step.context_model is not None:
        yield step.context_model
