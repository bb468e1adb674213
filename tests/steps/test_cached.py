"""`Step.cached`: the stored result for the same step, input and context."""

from typing import Any

import pytest
from pydantic import BaseModel

from flujo import AgentProcessors, Flujo, InMemoryCache, PipelineContext, Step, UsageLimits
from flujo.testing import FailingCache, ManualClock, StubAgent, override_agent
from tests.steps.workflows import CENT, Notes, Paid, PaidError, failing, paid, plain


class Counter:
    """An agent that says how often it was called, and is paid for it."""

    def __init__(self) -> None:
        self.calls = 0

    async def run(self, data: Any) -> Any:
        self.calls += 1
        return Paid(f"{data}/{self.calls}")


class DictCache:
    """A cache of the user's own: a dict, which is false while it is empty."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.values)

    async def get(self, key: str) -> Any | None:
        return self.values.get(key)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def clear(self) -> None:
        self.values.clear()


def test_a_second_run_with_the_same_input_costs_nothing() -> None:
    """The first run is a miss and paid; the second is a hit with the same output, no attempt and no cost."""
    agent = Counter()
    flujo = Flujo(Step.cached(Step("call", agent)))

    first, second = flujo.run("x"), flujo.run("x")
    miss, hit = first.step_history[0], second.step_history[0]

    assert first.output == second.output == "x/1"
    assert (miss.metadata_["cache_hit"], miss.attempts, first.total_cost) == (False, 1, CENT)
    assert (hit.metadata_["cache_hit"], hit.attempts, second.total_tokens) == (True, 0, 0)
    assert second.total_cost == 0
    assert (hit.name, hit.success, hit.feedback, agent.calls) == ("call", True, None, 1)


def test_another_input_is_another_result() -> None:
    """Equal values of other types are other inputs."""
    agent = Counter()
    flujo = Flujo(Step.cached(Step("call", agent)))

    outputs = [flujo.run(data).output for data in (1, "1", 1.0, True, [1], (1,), 1)]

    assert outputs == ["1/1", "1/2", "1.0/3", "True/4", "[1]/5", "(1,)/6", "1/1"]


def test_only_successes_are_stored() -> None:
    """A failure is tried again in the next run, and says that it was no hit."""
    flujo = Flujo(Step.cached(Step("call", StubAgent([PaidError("busy"), "fine", "never"]), max_retries=0)))

    failed, good, hit = flujo.run("x"), flujo.run("x"), flujo.run("x")

    assert (failed.status, good.output, hit.output) == ("failed", "fine", "fine")
    assert [each.step_history[0].metadata_["cache_hit"] for each in (failed, good, hit)] == [False, False, True]


def test_none_is_a_result_like_any_other() -> None:
    """A step that gives `None` is not called again."""
    agent = StubAgent([None])
    flujo = Flujo(Step.cached(Step("call", agent)))

    assert [flujo.run("x").output, flujo.run("x").output] == [None, None]
    assert agent.call_count == 1


def test_a_hit_charges_no_limit() -> None:
    """A run whose limit is nothing at all may use what is stored."""
    step = Step.cached(paid("call"))
    Flujo(step).run("x")

    result = Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=0, total_tokens_limit=0)).run("x")

    assert result.step_history[0].metadata_["cache_hit"] is True


def test_steps_with_other_agents_share_nothing() -> None:
    """The same name, input and cache do not make the same result."""
    cache = InMemoryCache()

    def answer(text: str) -> Any:
        return Flujo(Step.cached(plain("call", lambda data: f"{text}: {data}"), cache)).run("x").output

    assert [answer("terse"), answer("polite")] == ["terse: x", "polite: x"]


def test_agents_of_one_class_with_other_prompts_share_nothing() -> None:
    """Agents are told apart one by one, also when one is gone and another is made in its place."""

    class Prompted:
        def __init__(self, prompt: str) -> None:
            self.prompt = prompt

        async def run(self, data: str) -> str:
            return f"{self.prompt} {data}"

    cache = InMemoryCache()

    outputs = [Flujo(Step.cached(Step("call", Prompted(str(i))), cache)).run("x").output for i in range(50)]

    assert outputs == [f"{i} x" for i in range(50)]


@pytest.mark.parametrize("their_step", [plain("b", lambda data: "theirs"), plain("b", str.upper) >> plain("c")])
def test_a_key_that_another_program_wrote_is_no_hit(their_step: Any) -> None:
    """A cache that outlives the process may hold a result under the same key that other steps have made."""
    cache = DictCache()
    theirs, ours = Step.cached(their_step, cache), Step.cached(plain("b"), cache)
    Flujo(theirs).run("x")
    (result,) = cache.values.values()
    Flujo(ours).run("x")
    for key in cache.values:
        cache.values[key] = result

    assert Flujo(ours).run("x").output == "x"


def test_an_overridden_agent_does_not_give_what_the_other_gave() -> None:
    """Neither in the test that overrides, nor afterwards; one that reads the context has it in its key."""
    inner = plain("call", lambda data: "real")
    flujo = Flujo(Step.cached(inner), context_model=Notes)

    async def read(data: Any, *, context: Notes) -> int:
        return context.count

    before = flujo.run("x").output
    with override_agent(inner, read):
        overridden = [flujo.run("x", initial_context_data={"count": count}).output for count in (1, 2)]

    assert (before, overridden, flujo.run("x").output) == ("real", [1, 2], "real")


def test_a_step_that_reads_the_context_has_it_in_its_key() -> None:
    """Other fields make another result; the identity of the run does not."""

    async def read(data: Any, *, context: Notes) -> Any:
        return Paid((context.count, context.tags, context.scratchpad))

    flujo = Flujo(Step.cached(Step("read", read)), context_model=Notes)

    def hit(**fields: Any) -> Any:
        return flujo.run("x", initial_context_data=fields).step_history[0].metadata_["cache_hit"]

    assert [hit(), hit(count=1), hit(tags=["a"]), hit(scratchpad={"k": 1})] == [False] * 4
    assert [hit(), hit(count=1), hit(tags=["a"]), hit(scratchpad={"k": 1}), hit(run_id="mine")] == [True] * 5


def test_a_step_that_does_not_see_the_context_shares_results_over_contexts() -> None:
    """Its result cannot depend on the context."""
    flujo = Flujo(Step.cached(paid("call")), context_model=Notes)
    flujo.run("x")

    result = flujo.run("x", initial_context_data={"count": 5})

    assert result.step_history[0].metadata_["cache_hit"] is True


def test_a_hit_changes_the_context_as_the_step_did() -> None:
    """What the step wrote is written again, into the context of the new run and nowhere else."""

    async def write(data: str, *, context: Notes) -> str:
        context.tags.append(data)
        context.table["all"] = [data]
        return data

    flujo = Flujo(Step.cached(Step("write", write)), context_model=Notes)

    for run_id in ("one", "two", "three"):
        context = flujo.run("x", run_id=run_id).final_pipeline_context
        assert isinstance(context, Notes)
        assert (context.tags, context.table, context.run_id) == (["x"], {"all": ["x"]}, run_id)
        context.tags.append("mine")
        context.table["all"].append("mine")


def _seven(data: Any) -> dict[str, int]:
    return {"count": 7}


def test_an_updating_step_updates_on_a_hit() -> None:
    """`updates_context` has its effect whether the result is new or stored."""
    step = Step("call", _seven, updates_context=True)  # it does not ask for the context
    flujo = Flujo(Step.cached(step), context_model=Notes)

    counts = [getattr(flujo.run("x").final_pipeline_context, "count", None) for _ in range(2)]

    assert counts == [7, 7]


class ByCount:
    """Adds the context's count to what an agent gets or gives."""

    async def process(self, data: Any, context: Any) -> Any:
        return f"{data} {context.count}"


@pytest.mark.parametrize(
    "processors", [AgentProcessors(prompt_processors=[ByCount()]), AgentProcessors(output_processors=[ByCount()])]
)
def test_what_stands_around_an_agent_may_read_the_context(processors: AgentProcessors) -> None:
    """A step whose processors see the context has it in its key, though its agent does not ask for it."""
    flujo = Flujo(Step.cached(Step("call", str, processors=processors)), context_model=Notes)

    outputs = [flujo.run("x", initial_context_data={"count": count}).output for count in (1, 2, 1)]

    assert outputs == ["x 1", "x 2", "x 1"]


def test_what_the_caller_does_to_a_result_does_not_change_the_cache() -> None:
    """Neither the first result nor a hit is the stored value itself."""
    flujo = Flujo(Step.cached(plain("call", lambda data: {"items": [1]})))

    for _ in range(3):
        output: Any = flujo.run("x").output
        assert output == {"items": [1]}
        output["items"].append(2)


def test_a_hit_says_what_the_result_said() -> None:
    """Metadata such as the executed branch is stored with the result."""
    step = Step.branch_on("route", lambda data, context: data, {"x": paid("call")})
    flujo = Flujo(Step.cached(step))
    flujo.run("x")

    hit = flujo.run("x").step_history[0]

    assert hit.metadata_ == {"executed_branch_key": "x", "cache_hit": True}
    assert hit.step_history == []


@pytest.mark.parametrize("operation", ["get", "set"])
def test_a_failing_cache_fails_no_step(operation: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is as if nothing was stored; the error is logged."""
    agent = Counter()
    flujo = Flujo(Step.cached(Step("call", agent), FailingCache(operation)))

    outputs = [flujo.run("x").output, flujo.run("x").output]

    assert outputs == ["x/1", "x/2"]
    assert "OSError" in caplog.text


def test_a_result_that_cannot_be_stored_is_given_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """A paid answer nested too deeply to be written fails nothing."""

    def nest(data: Any) -> Any:
        nested: list[Any] = []
        for _ in range(100_000):
            nested = [nested]
        return nested

    result = Flujo(Step.cached(paid("call", nest))).run("x")

    assert result.success
    assert result.total_cost == CENT
    assert "is not kept in the cache: output[0][0]" in caplog.text


class Opaque:
    """Has no canonical form."""


def test_an_input_without_canonical_form_fails_the_step_before_it_is_paid() -> None:
    """The feedback names the place and the type."""
    agent = Counter()

    result = Flujo(Step.cached(Step("call", agent))).run({"image": [Opaque()]})

    assert "input.image[0] is a Opaque" in str(result.step_history[0].feedback)
    assert agent.calls == 0


def test_the_steps_own_cache_comes_before_the_runners() -> None:
    """Then the runner's, then one of the step's own memory; an empty cache is a cache."""
    own, runners, agent = DictCache(), DictCache(), Counter()
    step = Step("call", agent)

    Flujo(Step.cached(step, own), cache_backend=runners).run("x")
    Flujo(Step.cached(step), cache_backend=runners).run("x")

    assert (len(own), len(runners), agent.calls) == (1, 1, 2)
    assert Flujo(Step.cached(step), cache_backend=runners).run("x").step_history[0].metadata_["cache_hit"] is True


def test_a_runner_as_step_brings_its_cache_along() -> None:
    """Its cached steps use its own cache, or that of the outer runner if it has none."""
    inner, outer = DictCache(), DictCache()

    Flujo(Flujo(Step.cached(paid("call")), cache_backend=inner).as_step("s"), cache_backend=outer).run("x")
    assert (len(inner), len(outer)) == (1, 0)

    Flujo(Flujo(Step.cached(paid("call"))).as_step("s"), cache_backend=outer).run("x")
    assert (len(inner), len(outer)) == (1, 1)


def test_a_stored_result_may_expire() -> None:
    """After the cache's time the step runs again."""
    clock = ManualClock()
    flujo = Flujo(Step.cached(Step("call", Counter()), InMemoryCache(ttl=60, clock=clock)))

    first = flujo.run("x").output
    clock.advance(59)
    second = flujo.run("x").output
    clock.advance(1)

    assert (first, second, flujo.run("x").output) == ("x/1", "x/1", "x/2")


@pytest.mark.parametrize(
    "inner",
    [
        paid("a") >> paid("b"),
        Step.parallel("p", {"a": paid("a"), "b": paid("b")}),
        Step.map_over("m", paid("a")),
        Step.loop_until("l", paid("a"), lambda output, context: True),
        failing("bad").fallback(paid("good")),
    ],
)
def test_any_kind_of_step_may_be_cached(inner: Any) -> None:
    """A composite is stored as a whole: a hit runs and costs nothing inside it."""
    flujo = Flujo(Step.cached(inner))

    first, second = flujo.run(["x"]), flujo.run(["x"])

    assert first.output == second.output
    assert first.total_cost > 0
    assert second.total_cost == 0
    assert second.step_history[0].metadata_["cache_hit"] is True


def test_a_cached_answer_is_that_of_its_own_run() -> None:
    """A paused run that is resumed twice gets each answer, though the first one is stored by then."""
    flujo = Flujo(Step.cached(Step.human_in_the_loop("ask", "?")))
    paused = flujo.run("x")

    outputs = [flujo.resume(paused, answer).output for answer in ("first", "second")]

    assert outputs == ["first", "second"]
    assert flujo.run("x").output == "second"


class Bare(BaseModel):
    """A context that iterates in its own way."""

    count: int = 0

    def __iter__(self) -> Any:
        return iter([1, 2, 3])


def test_any_context_may_be_in_the_key() -> None:
    """Its fields are, however the model iterates."""

    async def read(data: Any, *, context: Bare) -> int:
        return context.count

    flujo = Flujo(Step.cached(Step("read", read)), context_model=Bare)

    assert [flujo.run("x", initial_context_data={"count": count}).output for count in (1, 2, 1)] == [1, 2, 1]


def test_answers_of_people_are_not_brought_back_by_a_hit() -> None:
    """The history of a run has the answers of that run only."""
    flujo = Flujo(Step.cached(Step.human_in_the_loop("ask", "?")))
    flujo.resume(flujo.run("x"), "yes")

    context = flujo.run("x").final_pipeline_context

    assert isinstance(context, PipelineContext)
    assert context.hitl_history == []
