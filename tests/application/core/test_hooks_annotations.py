"""A hook gets the payloads that its annotation names, and all of them if it has none."""

from __future__ import annotations

import functools
import typing
from typing import TYPE_CHECKING, Annotated, Any

import pytest

import flujo
from flujo import (
    ConfigurationError,
    Flujo,
    HookPayload,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    Step,
)

if TYPE_CHECKING:
    from flujo import OnPausePayload as Unimported

_HEARD: list[Any] = []
_ALL = ["PreRunPayload", "PreStepPayload", "PostStepPayload", "PostRunPayload"]
_EITHER = PreRunPayload | PostRunPayload


async def _one(payload: PreStepPayload) -> None:
    _HEARD.append(payload)


async def _union(payload: PreStepPayload | PostStepPayload) -> None:
    _HEARD.append(payload)


async def _old_union(payload: typing.Union[PreStepPayload, PostStepPayload]) -> None:  # noqa: UP007  # a spelling in use
    _HEARD.append(payload)


async def _alias(payload: _EITHER) -> None:
    _HEARD.append(payload)


async def _annotated(payload: Annotated[PreStepPayload, "before"]) -> None:
    _HEARD.append(payload)


async def _qualified(payload: flujo.PostRunPayload) -> None:
    _HEARD.append(payload)


async def _base(payload: HookPayload) -> None:
    _HEARD.append(payload)


async def _any(payload: Any) -> None:
    _HEARD.append(payload)


async def _object(payload: object) -> None:
    _HEARD.append(payload)


async def _bare(payload) -> None:  # type: ignore[no-untyped-def]  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]  # the point
    _HEARD.append(payload)


async def _for_type_checkers_only(payload: PreStepPayload | Unimported) -> None:
    _HEARD.append(payload)


async def _with_default(payload: PreStepPayload, times: int = 1) -> None:
    _HEARD.extend([payload] * times)


def _plain(payload: PreStepPayload) -> None:
    _HEARD.append(payload)


class _Object:
    async def __call__(self, payload: PreStepPayload) -> None:
        _HEARD.append(payload)

    async def method(self, payload: PostStepPayload) -> None:
        _HEARD.append(payload)


async def _named(label: str, payload: PreStepPayload) -> None:
    _HEARD.append(payload)


_HOOKS: list[tuple[Any, list[str]]] = [
    (_one, ["PreStepPayload"]),
    (_union, ["PreStepPayload", "PostStepPayload"]),
    (_old_union, ["PreStepPayload", "PostStepPayload"]),
    (_alias, ["PreRunPayload", "PostRunPayload"]),
    (_annotated, ["PreStepPayload"]),
    (_qualified, ["PostRunPayload"]),
    (_base, _ALL),
    (_any, _ALL),
    (_object, _ALL),
    (_bare, _ALL),
    (_for_type_checkers_only, ["PreStepPayload"]),
    (_with_default, ["PreStepPayload"]),
    (_plain, ["PreStepPayload"]),
    (_Object(), ["PreStepPayload"]),
    (_Object().method, ["PostStepPayload"]),
    (functools.partial(_named, "label"), ["PreStepPayload"]),
    (_HEARD.append, _ALL),
]


@pytest.mark.parametrize(("hook", "kinds"), _HOOKS)
async def test_an_annotation_says_what_a_hook_hears(hook: Any, kinds: list[str]) -> None:
    """Types, unions, strings and aliases select; a base class, `Any` and nothing at all let everything through."""
    _HEARD.clear()

    await Flujo(Step.from_callable(str.upper, name="a"), hooks=[hook]).run_async("go")

    assert [type(payload).__name__ for payload in _HEARD] == kinds


async def _no_payload() -> None: ...


async def _two_arguments(payload: PreStepPayload, more: str) -> None: ...


async def _by_keyword(*, payload: PreStepPayload) -> None: ...


async def _number(payload: int) -> None: ...


async def _half(payload: PreStepPayload | int) -> None: ...


@pytest.mark.parametrize(
    ("hook", "complaint"),
    [
        (_no_payload, r"the hook _no_payload is called with one payload, but takes \(\)"),
        (_two_arguments, r"the hook _two_arguments is called with one payload, but takes \(payload.*more"),
        (_by_keyword, r"the hook _by_keyword is called with one payload, but takes \(\*, payload"),
        (_number, "the hook _number asks for <class 'int'>; payloads are PreRunPayload"),
        (_half, r"the hook _half asks for .*PreStepPayload \| int"),
        ("log", "a hook is an async function that takes one payload, not 'log'"),
    ],
)
def test_what_cannot_be_a_hook_is_refused_when_the_runner_is_made(hook: Any, complaint: str) -> None:
    """A hook that no payload can be given to would be silent for ever."""
    with pytest.raises(ConfigurationError, match=complaint):
        Flujo(Step.from_callable(str.upper, name="a"), hooks=[hook])
