"""A file with workflows, and a process that forgets it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.command import imports_forgotten

WORKFLOWS = """
import asyncio

from pydantic import BaseModel

from flujo import Flujo, PipelineContext, Step, UsageLimits


class Notes(PipelineContext):
    topic: str
    pages: int = 1


class Order(BaseModel):
    item: str
    count: int = 1


class Paid:
    cost_usd, token_counts, output = 0.5, 10, "paid"


def shout(text: str) -> str:
    print("from the workflow")
    return text.upper()


def double(number: int) -> int:
    return 2 * number


def repeat(order: Order) -> Order:
    return order


def fail(text: str) -> str:
    raise ValueError("no such\\nmodel")


def pay(text: str):
    return Paid()


async def tell_topic(text: str, context: Notes) -> str:
    return f"{text} about {context.topic}, {context.pages} pages"


async def speak(text: str):
    for word in text.split():
        yield word + " "


def garble(text: str) -> str:
    return "caf\\u00e9 \\udc80\\0"


shouting = Step("shout", shout) >> Step("again", shout)
numbers = Step("double", double)
orders = Step("repeat", repeat)
failing = Step("fail", fail, max_retries=2) >> Step("never", shout)
asking = Step("shout", shout) >> Step.human_in_the_loop("ask", "may I?") >> Step("after", shout)
paying = Step("pay", pay) >> Step("pay again", pay) >> Step("pay more", pay)
limited = Flujo(paying, usage_limits=UsageLimits(total_tokens_limit=15))
noted = Flujo(Step("tell", tell_topic), context_model=Notes)
speaking = Step("shout", shout) >> Step("speak", speak)
garbling = Step("garble", garble)
"""


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Run each test in a folder of its own, without settings, and forget what it imported from there."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLUJO_LIMIT_USD", "FLUJO_LIMIT_TOKENS", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    with imports_forgotten(tmp_path):
        yield


@pytest.fixture
def workflows(tmp_path: Path) -> Path:
    """Write a file with many workflows, and return it as a user in its folder names it."""
    (tmp_path / "flows.py").write_text(WORKFLOWS, encoding="utf-8")
    return Path("flows.py")
