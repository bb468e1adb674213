"""`Step.refine_until`: a generator and a critic, until the critic is content."""

from typing import Any

import pytest

from flujo import Flujo, RefinementCheck, Step, TypeMismatchError, UsageLimitExceededError, UsageLimits
from flujo.testing import StubAgent
from tests.steps.workflows import CENT, Paid, assert_adds_up, failing, paid, plain

NO = RefinementCheck(is_complete=False, feedback="shorter")
YES = RefinementCheck(is_complete=True)


def _critic(*checks: Any) -> Step[Any, RefinementCheck]:
    return Step("critic", StubAgent([Paid(check) for check in checks]), max_retries=0)


def test_drafts_are_made_until_the_critic_is_content() -> None:
    """The output is the accepted draft; the generator hears the original input and the critic's feedback."""
    writer = StubAgent([Paid("long"), Paid("shorter"), Paid("short")])
    step = Step.refine_until("refine", Step("writer", writer), _critic(NO, RefinementCheck(is_complete=False), YES))

    result = Flujo(step).run("topic")
    (refine,) = result.step_history

    assert (refine.name, refine.output, refine.success, refine.attempts) == ("refine", "short", True, 3)
    assert writer.inputs == [
        {"original_input": "topic", "feedback": None},
        {"original_input": "topic", "feedback": "shorter"},
        {"original_input": "topic", "feedback": None},
    ]
    assert [child.name for child in refine.step_history] == ["writer", "critic"] * 3
    assert (refine.cost, refine.feedback) == (6 * CENT, None)
    assert_adds_up(result)


def test_a_feedback_mapper_makes_the_next_request() -> None:
    """It gets the original input and the critic's check, and is not asked for the first draft."""
    writer = StubAgent(["long", "short"])
    step = Step.refine_until(
        "refine",
        Step("writer", writer),
        _critic(NO, YES),
        feedback_mapper=lambda original, check: f"{original}, but {check.feedback}",
    )

    assert Flujo(step).run("topic").output == "short"
    assert writer.inputs == [{"original_input": "topic", "feedback": None}, "topic, but shorter"]


def test_reaching_max_refinements_fails_with_the_last_draft() -> None:
    """Five drafts by default; the feedback says so, with what the critic said last."""
    writer = StubAgent([Paid(f"draft {i}") for i in range(9)])

    result = Flujo(Step.refine_until("refine", Step("writer", writer), _critic(*[NO] * 9)) >> paid("never")).run("x")
    (refine,) = result.step_history

    assert writer.call_count == 5
    assert (refine.status, refine.attempts, refine.output) == ("failed", 5, "draft 4")
    assert refine.feedback == "no draft was accepted after max_refinements=5: shorter"
    assert result.total_cost == 10 * CENT
    assert_adds_up(result)


def test_one_refinement_is_enough_for_a_good_draft() -> None:
    """With `max_refinements=1` an accepted first draft is a success."""
    step = Step.refine_until("refine", Step("writer", StubAgent(["draft"])), _critic(YES), max_refinements=1)

    assert Flujo(step).run("x").output == "draft"


def test_pipelines_may_generate_and_criticise() -> None:
    """Generator and critic may be pipelines; the draft is the generator's last output."""
    generator = plain("plan", lambda request: request["original_input"]) >> plain("write", lambda plan: plan * 2)
    critic = plain("measure", len) >> plain("judge", lambda length: RefinementCheck(is_complete=length == 2))

    assert Flujo(Step.refine_until("refine", generator, critic)).run("x").output == "xx"


@pytest.mark.parametrize(
    ("generator", "critic", "said", "children", "attempts"),
    [
        (failing("writer"), _critic(YES), "step 'writer': PaidError: no luck", 1, 1),
        (paid("writer"), failing("critic"), "step 'critic': PaidError: no luck", 2, 1),
        (paid("writer"), _critic(NO, "fine"), "the critic 'critic' gave str; a critic gives a RefinementCheck", 4, 2),
    ],
)
def test_a_generator_or_critic_that_fails_fails_the_step(
    generator: Any, critic: Any, said: str, children: int, attempts: int
) -> None:
    """The feedback says who failed and why; everything that ran is kept and counted."""
    result = Flujo(Step.refine_until("refine", generator, critic)).run("x")
    (refine,) = result.step_history

    assert refine.status == "failed"
    assert refine.feedback is not None
    assert said in refine.feedback
    assert (len(refine.step_history), refine.attempts) == (children, attempts)
    assert result.total_cost == children * CENT
    assert_adds_up(result)


def test_a_feedback_mapper_that_raises_fails_the_step() -> None:
    """The error is the feedback, and the draft that was paid for is kept."""

    def lose(original: Any, check: RefinementCheck) -> Any:
        raise LookupError("lost")

    result = Flujo(Step.refine_until("refine", paid("writer"), _critic(NO), feedback_mapper=lose)).run("x")
    (refine,) = result.step_history

    assert (refine.feedback, refine.attempts) == ("feedback_mapper: LookupError: lost", 1)
    assert result.total_cost == 2 * CENT


def test_a_critic_that_declares_another_answer_is_refused() -> None:
    """A critic is known to give no check before anything runs, and so is one that cannot read the drafts."""

    async def judge(draft: str) -> bool:
        return True

    async def write(request: dict[str, Any]) -> int:
        return 1

    async def check(draft: str) -> RefinementCheck:
        return YES

    refine_until: Any = Step.refine_until

    with pytest.raises(TypeMismatchError, match="RefinementCheck"):
        Flujo(refine_until("r", plain("w"), Step.from_callable(judge))).run("x")
    with pytest.raises(TypeMismatchError, match="its critic"):
        Flujo(refine_until("r", Step.from_callable(write), Step.from_callable(check))).run("x")


def test_a_limit_stops_a_refinement_between_turns() -> None:
    """A draft that breaks the limit is in the history, and the critic is not asked."""
    critic = StubAgent([YES])
    step = Step.refine_until("refine", paid("writer"), Step("critic", critic))

    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(step, usage_limits=UsageLimits(total_tokens_limit=5)).run("x")

    assert critic.call_count == 0
    assert error.value.result.total_cost == CENT
