"""`Step`: the step that calls an agent, and the factories of all other kinds; `@step` makes one of a function."""

import functools
import inspect
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from flujo.cache.backends import ICacheBackend
from flujo.domain.agent_types import AnsweringAgent, AnyAgent, PlainAgent, ReportingAgent, StreamingAgent
from flujo.domain.models import BranchFailureStrategy, MergeStrategy, RefinementCheck, UsageLimits
from flujo.domain.pipeline import BaseStep
from flujo.domain.step import AgentStep, StepOptions
from flujo.exceptions import ConfigurationError
from flujo.steps.cached import CachedStep
from flujo.steps.conditional import ConditionalStep
from flujo.steps.gather import GatherStep
from flujo.steps.hitl import HumanInTheLoopStep
from flujo.steps.loop import LoopStep
from flujo.steps.map import MapStep
from flujo.steps.parallel import ParallelStep
from flujo.steps.refine import RefineStep
from flujo.steps.router import RouterStep

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.embeddings import Embedder

InT = TypeVar("InT", contravariant=True, default=Any)
OutT = TypeVar("OutT", covariant=True, default=Any)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D", default=Any)
Start = TypeVar("Start", default=Any)
Text = TypeVar("Text", str, bytes)
Ctx = TypeVar("Ctx", bound=BaseModel)


class Step(AgentStep[InT, OutT]):
    """One call of an agent: one of pydantic-ai, an object with `async def run(self, data)` or `stream`, or a function.

    Args:
        name: What the step is called in results, errors and traces.
        agent: What is called with the step's input. It gets `context`, `resources`, `feedback`, `meter`,
            `temperature`, `top_k` and `top_p` if its signature asks for them.
        config: Retries, timeout and model settings; its values may also be given as keyword arguments.
        plugins: `(plugin, priority)` pairs; higher priority first.
        validators: All are asked; what they refuse reaches the next attempt as feedback: in the keyword argument
            `feedback` if the agent has one, else below the text of a string, under the key `feedback` of a dict, or
            in the field `feedback` of a model or dataclass. An input of any other type stays as it is.
        prompt: A template that makes the agent's input of the step's input, the context and earlier outputs; see
            `PromptTemplate`.
        message_history: The context field, a list, with the conversation that the agent goes on with; what is said is
            appended to it as JSON if the answer is accepted.
        processors: Change the input before the first attempt, and every output before it is judged.
        fallback_step: What runs when all attempts failed.
        usage_limits: What each execution of the step may use.
        updates_context: Merge the output, a dict or a model, into the context, validated.
        validate_fields: Check the declared output type against the context when a run starts.
        persist_feedback_to_context: The context field, a list, that feedback is appended to.
        persist_validation_results_to: The context field, a list, that validation results are appended to.
        failure_handlers: Called without arguments when all attempts failed.
        strict: Whether an output that is refused fails the step; `False` passes it, and
            `metadata_["failed_validations"]` says what was refused.
        max_cost_usd: The most US dollars that one attempt costs, which is reserved before it; `None` if nobody knows.
        meta: Free for the user.

    Raises:
        ConfigurationError: The agent cannot be called with a step's input.
        TypeError: A keyword argument is unknown.

    Example:
        ```python
        from flujo import Flujo, Step

        async def greet(name: str) -> str:
            return f"Hello, {name}!"

        result = Flujo(Step("greet", greet, max_retries=2, timeout_s=5)).run("Ada")
        assert result.output == "Hello, Ada!"
        ```
    """

    @overload
    def __init__(
        self: "Step[Any, D]",  # what is no text is given to a model as JSON
        name: str,
        agent: "AbstractAgent[Any, D]",
        *,
        fallback_step: BaseStep[Any, D] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "Step[Any, list[Any]]",
        name: str,
        agent: "Embedder",
        *,
        fallback_step: BaseStep[Any, list[Any]] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        agent: ReportingAgent[InT, OutT],
        *,
        fallback_step: BaseStep[InT, OutT] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        agent: AnsweringAgent[InT, OutT],
        *,
        fallback_step: BaseStep[InT, OutT] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "Step[A, Text]",
        name: str,
        agent: StreamingAgent[A, Text],
        *,
        fallback_step: BaseStep[A, Text] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        agent: StreamingAgent[InT, Any],
        *,
        fallback_step: BaseStep[InT, OutT] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        agent: PlainAgent[InT, OutT] | None = None,
        *,
        fallback_step: BaseStep[InT, OutT] | None = None,
        **options: Unpack[StepOptions],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        agent: Any = None,
        *,
        fallback_step: BaseStep[Any, Any] | None = None,
        **options: Unpack[StepOptions],
    ) -> None:
        super().__init__(name, agent, fallback_step=fallback_step, **options)

    @overload
    @classmethod
    def from_callable(
        cls, function: ReportingAgent[A, B], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, B]": ...
    @overload
    @classmethod
    def from_callable(
        cls, function: AnsweringAgent[A, B], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, B]": ...
    @overload
    @classmethod
    def from_callable(
        cls, function: StreamingAgent[A, Text], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, Text]": ...
    @overload
    @classmethod
    def from_callable(
        cls, function: StreamingAgent[A, Any], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, Any]": ...
    @overload
    @classmethod
    def from_callable(
        cls, function: PlainAgent[A, B], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, B]": ...
    @classmethod
    def from_callable(cls, function: Any, name: str | None = None, **options: Unpack[StepOptions]) -> "Step[Any, Any]":
        """Return a step that calls a function, a bound method or a callable object.

        Args:
            function: Called with the step's input; its annotations give the step's types.
            name: The step's name; the function's by default.
            options: What `Step` takes besides, such as `max_retries` or `updates_context`.
        """
        return Step(name or _name_of(function), function, **options)

    @overload
    @classmethod
    def from_mapper(
        cls, mapper: ReportingAgent[A, B], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, B]": ...
    @overload
    @classmethod
    def from_mapper(
        cls, mapper: AnsweringAgent[A, B], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, B]": ...
    @overload
    @classmethod
    def from_mapper(
        cls, mapper: StreamingAgent[A, Text], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, Text]": ...
    @overload
    @classmethod
    def from_mapper(
        cls, mapper: StreamingAgent[A, Any], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, Any]": ...
    @overload
    @classmethod
    def from_mapper(
        cls, mapper: PlainAgent[A, B], name: str | None = None, **options: Unpack[StepOptions]
    ) -> "Step[A, B]": ...
    @classmethod
    def from_mapper(cls, mapper: Any, name: str | None = None, **options: Unpack[StepOptions]) -> "Step[Any, Any]":
        """Return a step that maps its input; the same as `from_callable`, named for what it does."""
        return Step.from_callable(mapper, name, **options)

    @overload
    @classmethod
    def solution(cls, agent: ReportingAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @overload
    @classmethod
    def solution(cls, agent: AnsweringAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @overload
    @classmethod
    def solution(cls, agent: StreamingAgent[A, Text], **options: Unpack[StepOptions]) -> "Step[A, Text]": ...
    @overload
    @classmethod
    def solution(cls, agent: StreamingAgent[A, Any], **options: Unpack[StepOptions]) -> "Step[A, Any]": ...
    @overload
    @classmethod
    def solution(cls, agent: PlainAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @classmethod
    def solution(cls, agent: Any, **options: Unpack[StepOptions]) -> "Step[Any, Any]":
        """Return a step named `solution`."""
        return Step("solution", agent, **options)

    @overload
    @classmethod
    def review(cls, agent: ReportingAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @overload
    @classmethod
    def review(cls, agent: AnsweringAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @overload
    @classmethod
    def review(cls, agent: StreamingAgent[A, Text], **options: Unpack[StepOptions]) -> "Step[A, Text]": ...
    @overload
    @classmethod
    def review(cls, agent: StreamingAgent[A, Any], **options: Unpack[StepOptions]) -> "Step[A, Any]": ...
    @overload
    @classmethod
    def review(cls, agent: PlainAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @classmethod
    def review(cls, agent: Any, **options: Unpack[StepOptions]) -> "Step[Any, Any]":
        """Return a step named `review`."""
        return Step("review", agent, **options)

    @overload
    @classmethod
    def validate_step(cls, agent: ReportingAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @overload
    @classmethod
    def validate_step(cls, agent: AnsweringAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @overload
    @classmethod
    def validate_step(cls, agent: StreamingAgent[A, Text], **options: Unpack[StepOptions]) -> "Step[A, Text]": ...
    @overload
    @classmethod
    def validate_step(cls, agent: StreamingAgent[A, Any], **options: Unpack[StepOptions]) -> "Step[A, Any]": ...
    @overload
    @classmethod
    def validate_step(cls, agent: PlainAgent[A, B], **options: Unpack[StepOptions]) -> "Step[A, B]": ...
    @classmethod
    def validate_step(cls, agent: Any, **options: Unpack[StepOptions]) -> "Step[Any, Any]":
        """Return a step named `validate`.

        Args:
            agent: Makes the output that is judged.
            options: What `Step` takes besides: `validators` and `plugins` judge the output; `strict=False` passes
                what they refuse and records it in `metadata_["failed_validations"]`.
        """
        return Step("validate", agent, **options)

    @staticmethod
    def parallel(
        name: str,
        branches: Mapping[str, BaseStep[A, Any]],
        *,
        context_include_keys: Collection[str] | None = None,
        merge_strategy: MergeStrategy | Callable[[Ctx, dict[str, Ctx]], object] = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        field_mapping: Mapping[str, Sequence[str]] | None = None,
        max_concurrency: int | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, dict[str, Any]]:
        """Return a step that runs all branches at once; its output is a dict by branch name.

        A branch that may change the context works on a copy of its own: models, dicts, lists and sets are made anew,
        values that cannot change are shared, so a copy costs what the context has in containers. `context_include_keys`
        makes it smaller. Branches that do not see the context share one copy, however many they are.

        Args:
            name: The step's name.
            branches: Steps or pipelines by name; each works on the step's input and a copy of the context.
            context_include_keys: The context fields that branches get and may bring back; all by default.
            merge_strategy: How the contexts of the branches come back; or `(context, {branch: context})`,
                which changes the context it is given.
            on_branch_failure: What a failed branch means.
            field_mapping: The context fields that the named branches may bring back; a merge function finds
                the other fields of these branches as they were before.
            max_concurrency: The most branches that run at once; all by default.
            usage_limits: What each execution of the step may use.
        """
        return ParallelStep(
            name,
            branches,
            context_include_keys=context_include_keys,
            merge_strategy=merge_strategy,
            on_branch_failure=on_branch_failure,
            field_mapping=field_mapping,
            max_concurrency=max_concurrency,
            usage_limits=usage_limits,
        )

    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, A],
        exit_condition_callable: Callable[[A, Any], bool],
        max_loops: int = 5,
        *,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, A]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, A],
        exit_condition_callable: Callable[[A, Any], bool],
        max_loops: int = 5,
        *,
        initial_input_to_loop_body_mapper: Callable[[Start, Any], A],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Start, A]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, B],
        exit_condition_callable: Callable[[B, Any], bool],
        max_loops: int = 5,
        *,
        iteration_input_mapper: Callable[[B, Any, int], A],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, B]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, B],
        exit_condition_callable: Callable[[B, Any], bool],
        max_loops: int = 5,
        *,
        initial_input_to_loop_body_mapper: Callable[[Start, Any], A],
        iteration_input_mapper: Callable[[B, Any, int], A],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Start, B]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, A],
        exit_condition_callable: Callable[[A, Any], bool],
        max_loops: int = 5,
        *,
        loop_output_mapper: Callable[[A, Any], D],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, D]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, A],
        exit_condition_callable: Callable[[A, Any], bool],
        max_loops: int = 5,
        *,
        initial_input_to_loop_body_mapper: Callable[[Start, Any], A],
        loop_output_mapper: Callable[[A, Any], D],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Start, D]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, B],
        exit_condition_callable: Callable[[B, Any], bool],
        max_loops: int = 5,
        *,
        iteration_input_mapper: Callable[[B, Any, int], A],
        loop_output_mapper: Callable[[B, Any], D],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, D]: ...
    @overload
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[A, B],
        exit_condition_callable: Callable[[B, Any], bool],
        max_loops: int = 5,
        *,
        initial_input_to_loop_body_mapper: Callable[[Start, Any], A],
        iteration_input_mapper: Callable[[B, Any, int], A],
        loop_output_mapper: Callable[[B, Any], D],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Start, D]: ...
    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: BaseStep[Any, Any],
        exit_condition_callable: Callable[[Any, Any], bool],
        max_loops: int = 5,
        *,
        initial_input_to_loop_body_mapper: Callable[[Any, Any], Any] | None = None,
        iteration_input_mapper: Callable[[Any, Any, int], Any] | None = None,
        loop_output_mapper: Callable[[Any, Any], Any] | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Any, Any]:
        """Return a step that repeats its body until a condition holds; its output is the body's last one.

        Args:
            name: The step's name.
            loop_body_pipeline: What is repeated, each time on the output of the time before.
            exit_condition_callable: `(output, context) -> bool`, asked after every iteration.
            max_loops: The most iterations; reaching it without the condition fails the step.
            initial_input_to_loop_body_mapper: `(input, context) -> input` of the first iteration.
            iteration_input_mapper: `(output, context, i) -> input` of the next iteration; `i` is the number of
                iterations done so far.
            loop_output_mapper: `(output, context) -> output` of the step.
            usage_limits: What each execution of the step may use.
        """
        return LoopStep(
            name,
            loop_body_pipeline,
            exit_condition_callable=exit_condition_callable,
            max_loops=max_loops,
            initial_input_to_loop_body_mapper=initial_input_to_loop_body_mapper,
            iteration_input_mapper=iteration_input_mapper,
            loop_output_mapper=loop_output_mapper,
            usage_limits=usage_limits,
        )

    @staticmethod
    def refine_until(
        name: str,
        generator_pipeline: BaseStep[Any, A],
        critic_pipeline: BaseStep[A, RefinementCheck],
        max_refinements: int = 5,
        *,
        feedback_mapper: Callable[[Any, RefinementCheck], Any] | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Any, A]:
        """Return a step that has drafts made until a critic accepts one; its output is the accepted draft.

        Args:
            name: The step's name.
            generator_pipeline: Works on `{"original_input": ..., "feedback": None}`, then on the critic's feedback.
            critic_pipeline: Gives a `RefinementCheck` for each draft.
            max_refinements: The most drafts; reaching it without an accepted one fails the step.
            feedback_mapper: `(original_input, check) -> input` of the generator's next draft.
            usage_limits: What each execution of the step may use.
        """
        return RefineStep(
            name,
            generator_pipeline,
            critic_pipeline,
            max_refinements=max_refinements,
            feedback_mapper=feedback_mapper,
            usage_limits=usage_limits,
        )

    @overload
    @staticmethod
    def branch_on(
        name: str,
        condition_callable: Callable[[A, Any], Hashable],
        branches: Mapping[Any, BaseStep[A, B]],
        default_branch_pipeline: BaseStep[A, B] | None = None,
        *,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, B]: ...
    @overload
    @staticmethod
    def branch_on(
        name: str,
        condition_callable: Callable[[A, Any], Hashable],
        branches: Mapping[Any, BaseStep[C, B]],
        default_branch_pipeline: BaseStep[C, B] | None = None,
        *,
        branch_input_mapper: Callable[[A, Any], C],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, B]: ...
    @overload
    @staticmethod
    def branch_on(
        name: str,
        condition_callable: Callable[[A, Any], Hashable],
        branches: Mapping[Any, BaseStep[A, B]],
        default_branch_pipeline: BaseStep[A, B] | None = None,
        *,
        branch_output_mapper: Callable[[B, Any, Any], D],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, D]: ...
    @overload
    @staticmethod
    def branch_on(
        name: str,
        condition_callable: Callable[[A, Any], Hashable],
        branches: Mapping[Any, BaseStep[C, B]],
        default_branch_pipeline: BaseStep[C, B] | None = None,
        *,
        branch_input_mapper: Callable[[A, Any], C],
        branch_output_mapper: Callable[[B, Any, Any], D],
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, D]: ...
    @staticmethod
    def branch_on(
        name: str,
        condition_callable: Callable[[Any, Any], Hashable],
        branches: Mapping[Any, BaseStep[Any, Any]],
        default_branch_pipeline: BaseStep[Any, Any] | None = None,
        *,
        branch_input_mapper: Callable[[Any, Any], Any] | None = None,
        branch_output_mapper: Callable[[Any, Any, Any], Any] | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Any, Any]:
        """Return a step that runs one of several branches.

        Args:
            name: The step's name.
            condition_callable: `(input, context) -> key`.
            branches: Steps or pipelines by key.
            default_branch_pipeline: What runs for any other key; without it such a key fails the step.
            branch_input_mapper: `(input, context) -> input` of the branch.
            branch_output_mapper: `(output, key, context) -> output` of the step.
            usage_limits: What each execution of the step may use.
        """
        return ConditionalStep(
            name,
            condition_callable=condition_callable,
            branches=branches,
            default_branch_pipeline=default_branch_pipeline,
            branch_input_mapper=branch_input_mapper,
            branch_output_mapper=branch_output_mapper,
            usage_limits=usage_limits,
        )

    @overload
    @staticmethod
    def map_over(
        name: str,
        pipeline_to_run: BaseStep[A, B],
        *,
        iterable_input: None = None,
        max_items: int | None = None,
        max_concurrency: int | None = 10,
        merge_strategy: MergeStrategy | Callable[[Ctx, dict[str, Ctx]], object] = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Iterable[A], list[B]]: ...
    @overload
    @staticmethod
    def map_over(
        name: str,
        pipeline_to_run: BaseStep[A, B],
        *,
        iterable_input: str,
        max_items: int | None = None,
        max_concurrency: int | None = 10,
        merge_strategy: MergeStrategy | Callable[[Ctx, dict[str, Ctx]], object] = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Any, list[B]]: ...
    @staticmethod
    def map_over(
        name: str,
        pipeline_to_run: BaseStep[Any, Any],
        *,
        iterable_input: str | None = None,
        max_items: int | None = None,
        max_concurrency: int | None = 10,
        merge_strategy: MergeStrategy | Callable[[Ctx, dict[str, Ctx]], object] = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[Any, list[Any]]:
        """Return a step that runs a pipeline once for each item; its output is a list in the order of the items.

        A pipeline with a step that may change the context gets a copy of the context for each item, and one copy costs
        what the context has in containers, the items among them if they come from a context field. Where the pipeline
        only works on the item, all items share one copy, so ten thousand items cost no more each than a hundred.

        Args:
            name: The step's name.
            pipeline_to_run: Works on one item and a copy of the context.
            iterable_input: The context field with the items; the step's own input by default.
            max_items: The most items, which bound what the step can cost; with more of them it fails before any of them
                starts. Any number by default.
            max_concurrency: The most items in work at once; `None` for all.
            merge_strategy: How the contexts of the items come back, as in `parallel`; items are named `"0"`, `"1"`, ...
            on_branch_failure: What a failed item means.
            usage_limits: What each execution of the step may use.
        """
        return MapStep(
            name,
            pipeline_to_run,
            iterable_input=iterable_input,
            max_items=max_items,
            max_concurrency=max_concurrency,
            merge_strategy=merge_strategy,
            on_branch_failure=on_branch_failure,
            usage_limits=usage_limits,
        )

    @staticmethod
    def dynamic_parallel_branch(
        name: str,
        router_agent: AnyAgent[A],
        branches: Mapping[str, BaseStep[A, Any]],
        *,
        context_include_keys: Collection[str] | None = None,
        merge_strategy: MergeStrategy | Callable[[Ctx, dict[str, Ctx]], object] = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        field_mapping: Mapping[str, Sequence[str]] | None = None,
        max_concurrency: int | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> BaseStep[A, dict[str, Any]]:
        """Return a step that asks an agent which branches to run, and runs them as `parallel` does.

        Args:
            name: The step's name.
            router_agent: Works on the step's input; gives one branch name or a list of them.
            branches: Steps or pipelines by name.
            context_include_keys: As in `parallel`.
            merge_strategy: As in `parallel`.
            on_branch_failure: As in `parallel`.
            field_mapping: As in `parallel`.
            max_concurrency: As in `parallel`.
            usage_limits: What each execution of the step may use, the router included.
        """
        return RouterStep(
            name,
            router_agent,
            branches,
            context_include_keys=context_include_keys,
            merge_strategy=merge_strategy,
            on_branch_failure=on_branch_failure,
            field_mapping=field_mapping,
            max_concurrency=max_concurrency,
            usage_limits=usage_limits,
        )

    @overload
    @staticmethod
    def human_in_the_loop(
        name: str, message_for_user: str | None = None, input_schema: None = None
    ) -> BaseStep[Any, Any]: ...
    @overload
    @staticmethod
    def human_in_the_loop(
        name: str, message_for_user: str | None = None, *, input_schema: type[A]
    ) -> BaseStep[Any, A]: ...
    @overload
    @staticmethod
    def human_in_the_loop(name: str, message_for_user: str | None, input_schema: type[A]) -> BaseStep[Any, A]: ...
    @staticmethod
    def human_in_the_loop(
        name: str, message_for_user: str | None = None, input_schema: type[Any] | None = None
    ) -> BaseStep[Any, Any]:
        """Return a step that pauses the run until a person answers; the answer is its output.

        Args:
            name: The step's name.
            message_for_user: What the person is asked; the step's input as text by default.
            input_schema: The type an answer has to fit, such as a pydantic model.
        """
        return HumanInTheLoopStep(name, message_for_user=message_for_user, input_schema=input_schema)

    @staticmethod
    def cached(step: BaseStep[A, B], cache_backend: ICacheBackend | None = None) -> BaseStep[A, B]:
        """Return a step that remembers the results of another one, by its input and the context it sees.

        Args:
            step: Runs when nothing is remembered; only successes are.
            cache_backend: Where results are kept; the runner's cache by default, or else the step's own memory.
        """
        return CachedStep(step, cache_backend)

    @staticmethod
    def gather(name: str, wait_for: Sequence[str]) -> BaseStep[Mapping[str, Any], dict[str, Any]]:
        """Return a step that picks keys out of a parallel result; a missing key fails it.

        Args:
            name: The step's name.
            wait_for: The keys, in the order of the output.
        """
        return GatherStep(name, wait_for=wait_for)


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # any function
    return str(getattr(function, "__name__", type(function).__name__))


def _refuse_what_is_no_function(decorated: Any) -> None:
    if isinstance(decorated, str):
        raise ConfigurationError(f"@step({decorated!r}): give the name by keyword, @step(name={decorated!r})")
    if inspect.isfunction(decorated) and next(iter(inspect.signature(decorated).parameters), None) == "self":
        raise ConfigurationError(
            f"@step: {decorated.__qualname__} is a method and takes `self`, which no step passes; "
            f"make a step of the method of an object, Step.from_callable(obj.{decorated.__name__})"
        )


class _StepMaker(Protocol):
    """The decorator that `@step(...)` returns."""

    @overload
    def __call__(self, function: ReportingAgent[A, B], /) -> Step[A, B]: ...
    @overload
    def __call__(self, function: AnsweringAgent[A, B], /) -> Step[A, B]: ...
    @overload
    def __call__(self, function: StreamingAgent[A, Text], /) -> Step[A, Text]: ...
    @overload
    def __call__(self, function: StreamingAgent[A, Any], /) -> Step[A, Any]: ...
    @overload
    def __call__(self, function: PlainAgent[A, B], /) -> Step[A, B]: ...


@overload
def step(function: ReportingAgent[A, B], /) -> Step[A, B]: ...
@overload
def step(function: AnsweringAgent[A, B], /) -> Step[A, B]: ...
@overload
def step(function: StreamingAgent[A, Text], /) -> Step[A, Text]: ...
@overload
def step(function: StreamingAgent[A, Any], /) -> Step[A, Any]: ...
@overload
def step(function: PlainAgent[A, B], /) -> Step[A, B]: ...
@overload
def step(*, name: str | None = None, **options: Unpack[StepOptions]) -> _StepMaker: ...
def step(
    function: Any = None, /, *, name: str | None = None, **options: Unpack[StepOptions]
) -> Step[Any, Any] | _StepMaker:
    """Make a step of a function; its annotations give the step's types.

    Args:
        function: An async or plain function whose first argument is the step's input.
        name: The step's name; the function's by default.
        options: What `Step` takes besides, such as `max_retries` or `updates_context`.

    Example:
        ```python
        from flujo import Flujo, step

        @step
        async def double(number: int) -> int:
            return 2 * number

        @step(max_retries=0)
        async def describe(number: int) -> str:
            return f"the number {number}"

        assert Flujo(double >> describe).run(21).output == "the number 42"
        ```
    """

    def make(decorated: Any, /) -> Step[Any, Any]:
        _refuse_what_is_no_function(decorated)
        made = Step.from_callable(decorated, name, **options)
        functools.update_wrapper(made, decorated, assigned=("__doc__",), updated=())
        return made

    return make if function is None else make(function)


adapter_step = step
"""`@adapter_step`: the same as `@step`, for steps that only reshape data between two others."""
