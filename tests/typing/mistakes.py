# mypy: ignore-errors
# type: ignore  # noqa: PGH003 - test_mistakes.py removes these two lines and sees who complains where
# ruff: noqa: D103, FBT003 - the names and the comments say it all
"""Mistakes that both type checkers must find: an error on every line that says `# wrong`, and on no other."""

from typing import Any

from pydantic import BaseModel

from flujo import (
    BranchFailureStrategy,
    Flujo,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    RefinementCheck,
    Step,
    StepConfig,
    UsageLimits,
    step,
)


class Notes(PipelineContext):
    words: int = 0


class Reply(BaseModel):
    output: str
    cost_usd: float


class Counter:
    async def run(self, data: str) -> int:
        return len(data)


class NotAnAgent:
    def answer(self, data: str) -> int:
        return len(data)


@step
async def count(text: str) -> int:
    return len(text)


@step
async def double(number: int) -> int:
    return 2 * number


@step(max_retries=2)
def describe(number: int) -> str:
    return f"the number {number}"


@step
async def ask(text: str) -> Reply:
    return Reply(output=text, cost_usd=0.01)


@step
async def criticise(draft: str) -> RefinementCheck:
    return RefinementCheck(is_complete=bool(draft))


@step
async def criticise_number(draft: int) -> RefinementCheck:
    return RefinementCheck(is_complete=bool(draft))


def is_long(number: int, context: Notes) -> bool:
    return number > context.words


def is_long_text(text: str, context: Notes) -> bool:
    return len(text) > context.words


def returns_text(number: int, context: Notes) -> str:
    return str(number)


def takes_one(number: int) -> bool:
    return number > 1


def text_of(number: int, context: Notes, i: int) -> str:
    return str(number + i)


def number_of(number: int, context: Notes, i: int) -> int:
    return number + i


def length(text: str, context: Notes) -> int:
    return len(text)


def merge(context: Notes, branches: dict[str, Notes]) -> None:
    context.words = sum(branch.words for branch in branches.values())


def merge_numbers(context: int, branches: dict[str, int]) -> None: ...


def merge_one(context: Notes) -> None: ...


def merge_two_kinds(context: Notes, branches: dict[str, RefinementCheck]) -> None: ...


def composing() -> None:
    count >> double >> describe
    count >> count  # wrong
    describe >> double  # wrong
    (count >> double) >> (count >> double)  # wrong
    ask >> double  # wrong
    count >> len  # wrong
    Pipeline.from_step(count) >> criticise  # wrong
    Pipeline(steps=[count, describe])
    Pipeline(steps=[len])  # wrong
    Pipeline([count])  # wrong
    a: Pipeline[str, str] = count >> double  # wrong
    b: Step[int, int] = count  # wrong
    (count >> double).as_step("inner") >> double  # wrong
    count.as_step("inner")  # wrong
    describe.use_input(1)  # wrong
    count >> double.use_input("a")  # wrong
    print(a, b)


def running() -> None:
    Flujo(count).run("text")
    Flujo(count).run(1)  # wrong
    Flujo(count >> double).run(None)  # wrong
    Flujo(count).run()  # wrong
    Flujo(len)  # wrong
    Flujo(count, context_model=int)  # wrong
    Flujo(count, usage_limits=0.5)  # wrong
    Flujo(count, limits=UsageLimits())  # wrong
    Flujo(count, Notes)  # wrong
    Flujo(count).run("text", "run-1")  # wrong
    Flujo(count).as_step("inner", False)  # wrong
    (count >> double).as_step("inner", False)  # wrong
    text: str | None = Flujo(count).run("text").output  # wrong
    Flujo(count).run("text").total_cost += 0.5  # wrong
    print(text)


async def running_within_a_loop() -> None:
    await Flujo(count).run_async("text")
    await Flujo(count).run_async(1)  # wrong
    await Flujo(count).run("text")  # wrong
    async for item in Flujo(count).run_async(["text"]):  # wrong
        print(item)
    async for item in Flujo(count).stream_async(1):  # wrong
        print(item)


def declaring() -> None:
    Step("count", Counter(), max_retries=2, timeout_s=1.5, config=StepConfig(temperature=0.2))
    Step("count", NotAnAgent())  # wrong
    Step("count", "an agent")  # wrong
    Step(Counter())  # wrong
    Step("count", Counter(), retries=2)  # wrong
    Step("count", Counter(), max_retries="2")  # wrong
    Step("count", Counter(), StepConfig())  # wrong
    Step("count", Counter(), True)  # wrong
    Step("count", Counter(), updates_context="yes")  # wrong
    Step("count", Counter(), usage_limits={"total_tokens_limit": 5})  # wrong
    Step("count", Counter(), plugins=[Counter()])  # wrong
    Step("count", Counter(), validators=[takes_one])  # wrong
    Step.from_callable(len, True)  # wrong
    Step.from_callable(NotAnAgent())  # wrong
    Step.solution(Counter(), retries=2)  # wrong
    Step.validate_step(Counter(), [])  # wrong
    step(nmae="count")  # wrong
    c: Step[str, str] = Step("count", Counter())  # wrong
    print(c)


def falling_back() -> None:
    count.fallback(Step("count", Counter()))
    count.fallback(double)  # wrong
    count.fallback(describe)  # wrong
    count.fallback(len)  # wrong
    (count >> double).fallback(count >> describe)  # wrong
    d: Step[str, int] = Step("count", Counter(), fallback_step=describe)  # wrong
    print(d)


def parallel() -> None:
    Step.parallel("both", {"a": count, "b": ask}, merge_strategy=merge)
    Step.parallel("both", {"a": count, "b": double})  # wrong
    Step.parallel("both", {"a": len})  # wrong
    Step.parallel("both", [count, ask])  # wrong
    Step.parallel("both", {"a": count}, merge_strategy=merge_numbers)  # wrong
    Step.parallel("both", {"a": count}, merge_strategy=merge_one)  # wrong
    Step.parallel("both", {"a": count}, merge_strategy=merge_two_kinds)  # wrong
    Step.parallel("both", {"a": count}, merge_strategy="overwrite")  # wrong
    Step.parallel("both", {"a": count}, on_branch_failure=MergeStrategy.NO_MERGE)  # wrong
    Step.parallel("both", {"a": count}, max_concurrency="all")  # wrong
    Step.parallel("both", {"a": count}, concurrency=2)  # wrong
    Step.parallel("both", {"a": count}) >> count  # wrong
    Step.parallel("both", {"a": count}) >> double.use_input("a")
    Step.dynamic_parallel_branch("some", Counter(), {"a": count, "b": ask})
    Step.dynamic_parallel_branch("some", Counter(), {"a": count, "b": double})  # wrong
    Step.dynamic_parallel_branch("some", NotAnAgent(), {"a": count})  # wrong
    Step.dynamic_parallel_branch("some", takes_one, {"a": count})  # wrong
    Step.gather("some", wait_for=[1])  # wrong
    Step.gather("some", wait_for=["a"]) >> count  # wrong


def looping() -> None:
    Step.loop_until("loop", double, is_long, max_loops=3)
    Step.loop_until("loop", count, is_long)  # wrong
    Step.loop_until("loop", count >> double, is_long)  # wrong
    Step.loop_until("loop", len, is_long)  # wrong
    Step.loop_until("loop", double, is_long_text)  # wrong
    Step.loop_until("loop", double, takes_one)  # wrong
    Step.loop_until("loop", double, returns_text)  # wrong
    Step.loop_until("loop", double, is_long, max_loops="3")  # wrong
    Step.loop_until("loop", count, is_long, iteration_input_mapper=text_of)
    Step.loop_until("loop", count, is_long, iteration_input_mapper=number_of)  # wrong
    Step.loop_until("loop", count, is_long, iteration_input_mapper=returns_text)  # wrong
    Step.loop_until("loop", double, is_long, initial_input_to_loop_body_mapper=length)
    Step.loop_until("loop", double, is_long, initial_input_to_loop_body_mapper=returns_text)  # wrong
    Step.loop_until("loop", double, is_long, loop_output_mapper=length)  # wrong
    Step.loop_until("loop", double, is_long, loop_output_mapper=text_of)  # wrong
    Step.loop_until("loop", double, is_long, loop_output_mapper=returns_text) >> double  # wrong
    Step.loop_until("loop", double, is_long) >> count  # wrong
    Step.refine_until("draft", describe, criticise)
    Step.refine_until("draft", describe, criticise_number)  # wrong
    Step.refine_until("draft", describe, count)  # wrong
    Step.refine_until("draft", describe, criticise, feedback_mapper=takes_one)  # wrong


def mapping() -> None:
    Flujo(Step.map_over("each", count)).run(["text"])
    Flujo(Step.map_over("each", count)).run([1])  # wrong
    Flujo(Step.map_over("each", count)).run(1)  # wrong
    Step.map_over("each", len)  # wrong
    Step.map_over("each", count) >> count  # wrong
    Step.map_over("each", count) >> Step.map_over("each", count)  # wrong
    Step.map_over("each", count) >> Step.map_over("each", double)
    Step.map_over("each", count, "words")  # wrong
    Step.map_over("each", count, iterable_input=["words"])  # wrong
    Step.map_over("each", count, merge_strategy=merge_one)  # wrong
    Step.map_over("each", count, on_branch_failure="ignore")  # wrong
    Step.map_over("each", count, on_branch_failure=BranchFailureStrategy.IGNORE)


def branching() -> None:
    Step.branch_on("which", is_long, {True: double, False: describe})
    Step.branch_on("which", is_long, {True: double, False: count})  # wrong
    Step.branch_on("which", is_long, {True: count, False: count})  # wrong
    Flujo(Step.branch_on("which", is_long, {True: double}, count)).run(1)  # wrong
    Step.branch_on("which", takes_one, {True: double})  # wrong
    Step.branch_on("which", is_long, {True: len})  # wrong
    Step.branch_on("which", length, {1: double}, branch_input_mapper=length)
    Step.branch_on("which", length, {1: count}, branch_input_mapper=length)  # wrong
    Step.branch_on("which", is_long, {True: double}, branch_output_mapper=text_of)
    Step.branch_on("which", is_long, {True: double}, branch_output_mapper=returns_text)  # wrong
    Step.branch_on("which", is_long, {True: describe}, branch_output_mapper=text_of)  # wrong
    Step.branch_on("which", is_long, {True: double}) >> count  # wrong


def asking() -> None:
    Step.human_in_the_loop("ask", "Go on?", input_schema=bool)
    Step.human_in_the_loop("ask", "Go on?", input_schema="bool")  # wrong
    Step.human_in_the_loop("ask", input_schema=str) >> double  # wrong
    Step.cached(count) >> count  # wrong
    Step.cached(len)  # wrong
    Step.cached(count, "memory")  # wrong


def anything(value: Any) -> None:
    Step("any", value) >> count
    count >> Step("any", value)
    Flujo(Step("any", value)).run(value)
