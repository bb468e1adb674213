"""Tells hooks what happens in a run."""

import asyncio
import inspect
import logging
import types
import typing
from collections.abc import Sequence
from typing import Any, Union

from flujo.application.core.cancellation import is_cancelled
from flujo.domain.observers import PAYLOADS, Hook, HookPayload
from flujo.exceptions import ConfigurationError, PipelineAbortSignal

_log = logging.getLogger("flujo.hooks")


class HookDispatcher:
    """Calls the hooks of a run, each with the payloads it asks for.

    Raises:
        ConfigurationError: A hook cannot be called with one payload, or asks for something that is no payload.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = tuple(hooks)
        self._wanted = [(hook, _wanted_payloads(hook)) for hook in hooks]

    async def fire(self, payload: HookPayload) -> None:
        """Call every hook that wants this payload.

        Raises:
            PipelineAbortSignal: A hook asks to stop the run. Any other error of a hook is logged and changes nothing.
        """
        for hook, wanted in self._wanted:
            if isinstance(payload, wanted):
                try:
                    outcome = hook(payload)
                    if inspect.isawaitable(outcome):
                        await outcome
                except PipelineAbortSignal:
                    raise
                except Exception:  # a hook is code of the user's; it watches the run and must not change it
                    _log.exception("the hook %s failed on %s", _name(hook), type(payload).__name__)
                except asyncio.CancelledError:
                    if is_cancelled():
                        raise
                    _log.exception("the hook %s was cancelled by its own code", _name(hook))


def _wanted_payloads(hook: Hook) -> tuple[type, ...]:
    if not callable(hook):
        raise ConfigurationError(f"a hook is an async function that takes one payload, not {hook!r}")
    try:
        signature = inspect.signature(hook)
    except ValueError:  # some builtins have none
        return PAYLOADS
    try:
        signature.bind(None)
    except TypeError:
        raise ConfigurationError(f"the hook {_name(hook)} is called with one payload, but takes {signature}") from None
    annotation = _annotation(hook, next(iter(signature.parameters.values())))
    if annotation in (inspect.Parameter.empty, Any, object):
        return PAYLOADS
    if isinstance(annotation, str):
        wanted = tuple(payload for payload in PAYLOADS if payload.__name__ in annotation)
        return wanted or PAYLOADS
    origin = typing.get_origin(annotation)
    members = typing.get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)
    if not all(isinstance(member, type) and issubclass(member, HookPayload) for member in members):
        raise ConfigurationError(
            f"the hook {_name(hook)} asks for {annotation!r}; payloads are "
            + ", ".join(payload.__name__ for payload in PAYLOADS)
        )
    return members


def _annotation(hook: Hook, parameter: inspect.Parameter) -> Any:
    function = hook if inspect.isroutine(hook) else type(hook).__call__
    try:
        return typing.get_type_hints(function).get(parameter.name, parameter.annotation)
    except (NameError, TypeError, AttributeError, SyntaxError):  # what cannot be evaluated here stays text
        return parameter.annotation


def _name(hook: Any) -> str:
    return getattr(hook, "__qualname__", repr(hook))
