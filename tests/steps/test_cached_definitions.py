"""What `Step.cached` takes for the same step: built twice or elsewhere it hits, changed it does not."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flujo import (
    AgentProcessors,
    BaseStep,
    BaseValidator,
    Flujo,
    InMemoryCache,
    Step,
    ValidationResult,
    validator,
)
from flujo.testing import StubAgent

_CALLS: list[Any] = []


def _hits(*steps: BaseStep[Any, Any]) -> list[bool]:
    """Return for each of these steps, run one after the other with one cache, whether it was a hit."""
    cache = InMemoryCache()
    results = [Flujo(Step.cached(step, cache)).run("x") for step in steps]
    assert all(result.success for result in results), [result.step_history[0].feedback for result in results]
    return [result.step_history[0].metadata_["cache_hit"] for result in results]


async def answer(data: Any) -> Any:
    """Give the input back, and note it."""
    _CALLS.append(data)
    return data


def suffixed(data: Any, suffix: str = "!") -> str:
    """Add a suffix."""
    return f"{data}{suffix}"


class Prompted:
    """An agent with a prompt, that counts its calls."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.calls = 0
        self.inputs: list[Any] = []
        self.by_input: dict[Any, int] = {}

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt, which no call does."""
        self.prompt = prompt

    async def run(self, data: Any) -> str:
        """Answer."""
        self.calls += 1
        self.inputs.append(data)
        self.by_input[data] = self.by_input.get(data, 0) + 1
        return f"{self.prompt} {data}"


@dataclass
class PromptedData:
    """The same as a dataclass."""

    prompt: str
    seen: list[Any] = field(default_factory=list[Any])

    async def run(self, data: Any) -> str:
        """Answer."""
        self.seen.append(data)
        return f"{self.prompt} {data}"


class Sealed:
    """An agent that holds something which cannot be described."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.connection = (each for each in [1])

    async def run(self, data: Any) -> str:
        """Answer."""
        return f"{self.prompt} {data}"


class Longer(BaseValidator):
    """Wants more characters than it is told."""

    def __init__(self, than: int) -> None:
        super().__init__()
        self.than = than

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        """Judge one output."""
        return ValidationResult(is_valid=len(output) > self.than)


class Adds:
    """Adds a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def process(self, data: Any, context: Any) -> Any:
        """Return the longer data."""
        return f"{data}{self.text}"


def _closure(prompt: str) -> Callable[[Any], Any]:
    calls = 0

    def function(data: Any) -> str:
        nonlocal calls
        calls += 1
        return f"{prompt} {data}"

    return function


def _plus(number: int) -> Callable[[Any], Any]:
    one: Callable[[Any], Any] = lambda data: f"{data}+1"  # noqa: E731 - two functions of one name
    two: Callable[[Any], Any] = lambda data: f"{data}+2"  # noqa: E731 - see above
    return one if number == 1 else two


def _looped(times: int) -> BaseStep[Any, Any]:
    return Step.loop_until("l", Step("a", answer), lambda output, context: times > 0, max_loops=times)


def _merging(name: str) -> BaseStep[Any, Any]:
    def merge(context: Any, branches: dict[str, Any]) -> None:
        context.scratchpad["merged"] = name

    return Step.parallel("p", {"a": Step("a", answer)}, merge_strategy=merge)


def _validator(forbidden: str) -> BaseValidator:
    @validator
    def check(output: Any) -> tuple[bool, str | None]:
        return output != forbidden, None

    return check


BUILT: dict[str, tuple[Callable[[Any], BaseStep[Any, Any]], Any, Any]] = {
    "name": (lambda name: Step(name, answer), "a", "b"),
    "config": (lambda retries: Step("a", answer, max_retries=retries), 1, 2),
    "function": (lambda function: Step("a", function), answer, suffixed),
    "closure": (lambda prompt: Step("a", _closure(prompt)), "terse", "polite"),
    "code": (lambda number: Step("a", _plus(number)), 1, 2),
    "partial": (lambda suffix: Step("a", functools.partial(suffixed, suffix=suffix)), "!", "?"),
    "object": (lambda prompt: Step("a", Prompted(prompt)), "terse", "polite"),
    "dataclass": (lambda prompt: Step("a", PromptedData(prompt)), "terse", "polite"),
    "method": (lambda prompt: Step("a", Prompted(prompt).run), "terse", "polite"),
    "stub": (lambda output: Step("a", StubAgent([output])), 1, 2),
    "validator": (lambda than: Step("a", answer, validators=[Longer(than)]), 0, -1),
    "check": (lambda text: Step("a", answer, validators=[_validator(text)]), "a", "b"),
    "processor": (
        lambda text: Step("a", answer, processors=AgentProcessors(output_processors=[Adds(text)])),
        "a",
        "b",
    ),
    "fallback": (lambda prompt: Step("a", answer).fallback(Step("b", _closure(prompt))), "terse", "polite"),
    "pipeline": (lambda name: Step("a", answer) >> Step(name, answer), "b", "c"),
    "loop": (_looped, 1, 2),
    "merge": (_merging, "a", "b"),
    "branch": (lambda key: Step.branch_on("b", lambda data, context: key, {key: Step("a", answer)}), 1, "1"),
    "runner": (lambda prompt: Flujo(Step("a", Prompted(prompt))).as_step("s"), "terse", "polite"),
    "cached": (lambda prompt: Step.cached(Step("a", Prompted(prompt))), "terse", "polite"),
}


@pytest.mark.parametrize("kind", BUILT)
def test_a_step_that_is_built_twice_is_the_same_and_another_one_is_not(kind: str) -> None:
    """All that decides what a step gives is part of what it is."""
    build, one, other = BUILT[kind]

    assert _hits(build(one), build(one), build(other), build(other), build(one)) == [False, True, False, True, True]


@pytest.mark.parametrize("make", [Prompted, PromptedData, Sealed])
def test_an_agent_that_is_changed_in_place_is_another_one(make: Callable[[str], Any]) -> None:
    """What it does as it works changes nothing; what is done to it does."""
    agent = make("terse")
    flujo = Flujo(Step.cached(Step("a", agent)))

    before = [flujo.run("x"), flujo.run("y"), flujo.run("x")]
    agent.prompt = "polite"
    after = [flujo.run("x"), flujo.run("x")]

    assert [run.step_history[0].metadata_["cache_hit"] for run in (*before, *after)] == [
        False,
        False,
        True,
        False,
        True,
    ]
    assert [run.output for run in after] == ["polite x", "polite x"]


def test_a_step_that_appends_to_a_list_is_the_same_afterwards() -> None:
    """A method of a built-in container is an agent like any other."""
    noted: list[Any] = []
    flujo = Flujo(Step.cached(Step("note", noted.append)))

    hits = [flujo.run("x").step_history[0].metadata_["cache_hit"] for _ in range(3)]

    assert (hits, noted) == ([False, True, True], ["x"])


def test_a_method_that_no_call_uses_changes_an_agent() -> None:
    """A setter of the agent's own is called from outside."""
    agent = Prompted("terse")
    flujo = Flujo(Step.cached(Step("a", agent)))

    first = flujo.run("x").output
    agent.set_prompt("polite")

    assert (first, flujo.run("x").output) == ("terse x", "polite x")


def test_a_validator_that_is_changed_in_place_is_another_one() -> None:
    """So is all else that a step holds."""
    judge = Longer(0)
    flujo = Flujo(Step.cached(Step("a", answer, validators=[judge], max_retries=0)))

    first = flujo.run("x").status
    judge.than = 5

    assert (first, flujo.run("x").status) == ("completed", "failed")


def test_what_cannot_be_described_is_only_itself() -> None:
    """Two agents alike share nothing if nobody can tell that they are alike; one agent is the same in two steps."""
    agent = Sealed("terse")

    assert _hits(Step("a", agent), Step("a", agent), Step("a", Sealed("terse"))) == [False, True, False]


def test_a_global_that_a_function_mentions_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed constant or helper function makes another step."""
    step = Step("a", greet)
    cache = InMemoryCache()
    flujo = Flujo(Step.cached(step, cache))

    outputs = [flujo.run("x").output]
    monkeypatch.setattr(f"{__name__}._GREETING", "Good day")
    outputs.append(flujo.run("x").output)
    monkeypatch.setattr(f"{__name__}._punctuated", functools.partial(suffixed, suffix="?"))
    outputs.append(flujo.run("x").output)

    assert outputs == ["Hello x!", "Good day x!", "Good day x?"]


_GREETING = "Hello"


def _punctuated(text: str) -> str:
    return f"{text}!"


def greet(data: str) -> str:
    """Greet somebody."""
    return _punctuated(f"{_GREETING} {data}")


_PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path
from flujo import Flujo, SQLiteCache, Step

WORDS = {"alpha", "beta", "gamma"}

@dataclass
class Draft:
    text: str
    tags: set[str]

class Writer:
    def __init__(self, prompt):
        self.prompt = prompt
        self.options = {"words": WORDS, "limit": 3}
        self.calls = 0

    async def run(self, data: str) -> Draft:
        self.calls += 1
        with open(sys.argv[2], "a") as effects:
            effects.write("called\\n")
        return Draft(f"{self.prompt} {data}" + ("!" if data in {"x", "y", "z"} else ""), {"a", "b"})

cache = SQLiteCache(sys.argv[1])
result = Flujo(Step.cached(Step("write", Writer(sys.argv[3])), cache)).run("x")
assert result.output == Draft(f"{sys.argv[3]} x!", {"a", "b"}), result.output
"""


def test_another_process_hits(tmp_path: Path) -> None:
    """Whatever its hash seed is; with another prompt it does not."""
    effects = tmp_path / "effects"

    def run(seed: str, prompt: str) -> int:
        arguments = [str(tmp_path / "cache.db"), str(effects), prompt]
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments], env={**os.environ, "PYTHONHASHSEED": seed}, check=True
        )
        return len(effects.read_text().splitlines())

    assert [run("1", "terse"), run("2", "terse"), run("3", "polite")] == [1, 1, 2]
