"""Every error of flujo has its place in one tree, says what a caller needs, and survives being copied."""

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import flujo
from flujo import (
    AnswerRejectedError,
    ContextUpdateError,
    Flujo,
    FlujoError,
    PausedException,
    PipelineContext,
    PipelineContextInitializationError,
    PipelineResult,
    Step,
    StepResult,
    TypeMismatchError,
    UsageLimitExceededError,
    UsageLimits,
    exceptions,
)

_TREE_LINE = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+) +\S")


def _drawn_tree() -> dict[str, str]:
    """The parent of every error, as drawn on top of the module."""
    ancestors, parents = ["FlujoError"], dict[str, str]()
    for line in (exceptions.__doc__ or "").splitlines():
        if drawn := _TREE_LINE.match(line):
            depth = len(drawn["indent"]) // 4 + 1
            del ancestors[depth:]
            parents[drawn["name"]] = ancestors[-1]
            ancestors.append(drawn["name"])
    return parents


def _errors() -> dict[str, type[FlujoError]]:
    """Every public error of the module."""
    return {
        name: value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, FlujoError) and not name.startswith("_")
    }


def test_the_tree_on_top_is_the_real_tree() -> None:
    """Every error is drawn below the one it derives from."""
    public = _errors()
    parents = {
        name: next(base.__name__ for base in error.__mro__[1:] if base.__name__ in public)
        for name, error in public.items()
        if error is not FlujoError
    }

    assert _drawn_tree() == parents


@pytest.mark.parametrize("name", sorted(_errors()))
def test_every_error_is_exported(name: str) -> None:
    """Users import errors from `flujo`."""
    assert getattr(flujo, name) is getattr(exceptions, name)
    assert name in flujo.__all__


_COPIES: dict[str, Callable[[FlujoError], FlujoError]] = {
    "copied": copy.copy,
    "deeply copied": copy.deepcopy,
    "pickled": lambda error: pickle.loads(pickle.dumps(error)),
}


class UnpaidBillError(FlujoError):
    """An error of a user's own that cannot be made from its message alone."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(f"{message} ({number})")
        self.number = number


def _made(kind: type[FlujoError]) -> FlujoError:
    """An error with something in every attribute."""
    names = inspect.getfullargspec(kind.__init__).kwonlyargs
    keywords: dict[str, Any] = {name: f"the {name}" for name in names}
    if kind is UsageLimitExceededError:
        return UsageLimitExceededError("wrong", PipelineResult(output=7))
    return kind("wrong", **keywords)


_ERRORS = [
    *map(_made, _errors().values()),
    TypeMismatchError("no", producer="step 'a'", consumer="step 'b'", produced=list[int], consumed=str | None),
    UnpaidBillError("no", number=7),
]


@pytest.mark.parametrize("again", _COPIES.values(), ids=_COPIES.keys())
@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_being_copied(error: FlujoError, again: Callable[[FlujoError], FlujoError]) -> None:
    """A copy is of the same class, reads the same and has equal attributes."""
    copied = again(error)

    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.args == error.args
    assert vars(copied) == vars(error)


def test_notes_are_copied_too() -> None:
    """What a user added to an error goes with it."""
    error = ContextUpdateError("no", fields=("name",))
    error.add_note("in the third try")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["in the third try"]


class Paid:
    """An answer and its price."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.cost_usd = 0.75


async def _pay(data: str) -> Paid:
    return Paid(data)


def _run_out_of_money(data: str) -> None:
    step = Step("pay", _pay, usage_limits=UsageLimits(total_cost_usd_limit=0.5))
    Flujo(step).run(data)


def _check_breach(breach: UsageLimitExceededError) -> None:
    result = breach.result
    assert isinstance(result, PipelineResult)
    assert result.status == "stopped"
    assert [(step.name, step.output, step.cost_usd) for step in result.step_history] == [("pay", "text", 0.75)]
    context = result.final_pipeline_context
    assert isinstance(context, PipelineContext)
    assert context.initial_prompt == "text"


def test_a_breach_survives_being_pickled() -> None:
    """A copy of a breach knows the whole run so far."""
    with pytest.raises(UsageLimitExceededError) as raised:
        _run_out_of_money("text")

    _check_breach(pickle.loads(pickle.dumps(raised.value)))
    _check_breach(copy.deepcopy(raised.value))


def test_a_breach_crosses_processes() -> None:
    """A breach in a worker process reaches its parent as it is."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_run_out_of_money, "text").exception()

    assert isinstance(error, UsageLimitExceededError)
    _check_breach(error)


def test_a_breach_says_what_was_allowed_and_spent() -> None:
    """The message names the limit and what was spent, as amounts."""
    with pytest.raises(UsageLimitExceededError, match=r"\$0\.75.*\$0\.5|\$0\.5.*\$0\.75"):
        _run_out_of_money("text")


def test_a_mismatch_names_both_sides() -> None:
    """What a program needs of a mismatch is in its attributes, not only in its message."""

    def count(data: str) -> int:
        return len(data)

    with pytest.raises(TypeMismatchError) as raised:
        Flujo(Step("first", count) >> Step[Any, Any]("second", count)).run("text")

    error = raised.value
    assert (error.producer, error.produced) == ("step 'first'", int)
    assert (error.consumer, error.consumed) == ("step 'second'", str)
    assert str(error) == "step 'first' gives int, but step 'second' takes str"


def test_a_missing_field_is_named() -> None:
    """An error about a context carries the names of the fields concerned."""

    class Order(PipelineContext):
        number: int

    def same(data: str) -> str:
        return data

    with pytest.raises(PipelineContextInitializationError) as raised:
        Flujo(Step("same", same), context_model=Order).run("text")

    assert raised.value.fields == ("number",)


def test_errors_take_a_message() -> None:
    """An error that carries nothing besides is made of its message."""
    assert str(AnswerRejectedError("nobody waits")) == "nobody waits"
    assert PausedException().message == ""
    assert PausedException("which?").message == str(PausedException("which?")) == "which?"
    assert UsageLimitExceededError("too much", PipelineResult(step_history=[StepResult("a")])).args == ("too much",)
