"""Every error that flujo raises.

FlujoError
├── ConfigurationError                     the workflow or its settings are wrong
│   ├── SettingsError                      a setting of the command line or of flujo.toml
│   ├── MissingAgentError                  a step has no agent
│   ├── PricingNotConfiguredError          under a dollar limit, a model has no price
│   ├── TypeMismatchError                  what one step gives is not what the next one takes
│   ├── InfiniteFallbackError              a fallback leads back to its own step
│   ├── ImproperStepInvocationError        a step was called like a function
│   └── UnboundedCallError                 nobody knows what a call under a limit can cost
├── ContextInheritanceError                a sub-pipeline's context lacks required fields
├── PipelineContextInitializationError     a run's context could not be made
├── ContextUpdateError                     a value or a merge does not fit the context (fails the step)
├── InfiniteRedirectError                  plugins redirect in a circle
├── UsageLimitExceededError                a limit was passed; carries the result so far
├── RefusedCallError                       a call could pass a limit; raised to the agent that would make it
├── StateError                             a run cannot be stored, or not be resumed that way
│   ├── AnswerRejectedError                a person's answer does not fit, came twice, or nobody waits for it
│   ├── BudgetNotFoundError                no budget of that name is stored
│   ├── RunNotFoundError                   no run of that identity is stored
│   ├── RunOwnedError                      another process runs it
│   ├── PipelineChangedError               a finished step is another one now
│   ├── StateCorruptedError                what is stored is damaged
│   └── SchemaTooNewError                  a newer flujo has written the store
├── SerializationError                     a value has no stable form
├── AgentIOValidationError                 a model's answer does not fit, whatever it was told
├── NonRetryableError                      raised by agents: do not try again
│   ├── BadCredentialsError                the provider does not know the key, or it may not do that
│   ├── ContentRefusedError                a model or its provider refuses the content
│   ├── ContextTooLongError                the input is longer than the model takes
│   └── QuotaExceededError                 the account at the provider has no money or quota left
├── RetryLaterError                        raised by agents: try again, but not at once
│   ├── OverloadedError                    the provider is overloaded
│   └── RateLimitedError                   too many requests
├── PausedException                        raised by agents: wait for a person
└── PipelineAbortSignal                    raised by hooks and agents: stop the run gracefully
"""

from typing import Any

from flujo.domain.models import StepPath
from flujo.domain.results import PipelineResult


class FlujoError(Exception):
    """The base of every error that flujo raises.

    A copy, and what comes back from another process, has the same attributes, whatever the class takes to be made.

    Attributes:
        result: What was done and paid for until the error, if a run ended with it after its first step had started:
            the run so far, whose totals are what was charged. `None` if nothing was run.
    """

    result: PipelineResult[Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[FlujoError], args: tuple[Any, ...], attributes: dict[str, Any]) -> FlujoError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigurationError(FlujoError):
    """The workflow or its settings are wrong; raised before anything is spent."""


class SettingsError(ConfigurationError):
    """A setting from the command line, the environment or `flujo.toml` is unknown or does not fit."""


class MissingAgentError(ConfigurationError):
    """A step that has to call an agent has none."""


class PricingNotConfiguredError(ConfigurationError):
    """A model has no price that is known, so that its calls cannot be kept within a limit of dollars.

    Attributes:
        model: The model, such as `openai:gpt-4o`.
    """

    def __init__(self, message: str, *, model: str) -> None:
        super().__init__(message)
        self.model = model


class TypeMismatchError(ConfigurationError):
    """What one step gives is not what the next one takes.

    Attributes:
        producer: Who gives the value, such as `step 'draft'` or `the run's input`.
        consumer: Who takes it.
        produced: The type that is given.
        consumed: The type that is taken.
    """

    def __init__(self, message: str, *, producer: str, consumer: str, produced: Any, consumed: Any) -> None:
        super().__init__(message)
        self.producer = producer
        self.consumer = consumer
        self.produced = produced
        self.consumed = consumed


class InfiniteFallbackError(ConfigurationError):
    """A fallback leads back to the step it should stand in for; raised while declaring."""


class ImproperStepInvocationError(ConfigurationError):
    """A step was called like a function; steps are run by `Flujo`."""


class UnboundedCallError(ConfigurationError):
    """Nobody knows what a call can cost at the most, so a limit cannot hold for it; it is not made."""


class _ContextFieldsError(FlujoError):
    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class ContextInheritanceError(_ContextFieldsError):
    """The context of a sub-pipeline has required fields that the outer context does not give.

    Attributes:
        fields: The names of the fields that are missing or do not fit.
    """


class PipelineContextInitializationError(_ContextFieldsError):
    """The context of a run cannot be made; raised before the first step.

    Attributes:
        fields: The names of the fields that are missing, unknown or do not fit.
    """


class ContextUpdateError(_ContextFieldsError):
    """A value, a field name or a merge does not fit the context; fails the step, and the context stays as it was.

    Attributes:
        fields: The names of the fields concerned.
    """


class InfiniteRedirectError(FlujoError):
    """The plugins of a step redirect to an agent that already had its turn."""


class UsageLimitExceededError(FlujoError):
    """A usage limit was passed.

    Attributes:
        result: The run so far, with `status == "stopped"`; its `step_history` includes the step that broke the limit.
        budget: The name of the shared budget that was used up; `None` if it is a limit of the run or of a step.
    """

    result: PipelineResult[Any]

    def __init__(self, message: str, result: PipelineResult[Any], *, budget: str | None = None) -> None:
        super().__init__(message)
        self.budget = budget
        self.result = result  # pyright: ignore[reportIncompatibleVariableOverride]  # there always is one


class RefusedCallError(FlujoError):
    """A call of an agent could pass a limit, so it is not made; the run stops, and nothing of it is retried.

    Attributes:
        budget: The name of the shared budget that has no room for it; `None` if it is a limit of the run or of a step.
    """

    def __init__(self, message: str, *, budget: str | None = None) -> None:
        super().__init__(message)
        self.budget = budget


class StateError(FlujoError):
    """A run cannot be stored, or cannot be resumed that way, for instance because it does not wait for anything."""


class AnswerRejectedError(StateError):
    """A person's answer does not fit the `input_schema` of the waiting step, came twice, or nobody waits for it."""


class BudgetNotFoundError(StateError):
    """No budget of that name is stored.

    Attributes:
        name: The name.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class RunNotFoundError(StateError):
    """No run of that identity is stored.

    Attributes:
        run_id: The identity.
    """

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunOwnedError(StateError):
    """Another process runs this run, or has taken it over.

    Attributes:
        run_id: The identity of the run.
        owner: Who owns it, such as `process 4711 on host alpha`.
    """

    def __init__(self, message: str, *, run_id: str, owner: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.owner = owner


class PipelineChangedError(StateError):
    """A step that finished in a stored run is another one in this pipeline, or is gone.

    Attributes:
        run_id: The identity of the run.
        path: The address of the step.
    """

    def __init__(self, message: str, *, run_id: str, path: StepPath) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.path = path


class StateCorruptedError(StateError):
    """What is stored of a run is damaged; nothing of it is used.

    Attributes:
        run_id: The identity of the run; `None` if the whole store is damaged.
    """

    def __init__(self, message: str, *, run_id: str | None) -> None:
        super().__init__(message)
        self.run_id = run_id


class SchemaTooNewError(StateError):
    """The store was written by a newer version of flujo; upgrade flujo to open it."""


class SerializationError(FlujoError):
    """A value has no stable form, so that it can be neither stored nor used in a cache key."""


class AgentIOValidationError(FlujoError):
    """A model gave no answer of its output type, however often it was told what was wrong; the attempt failed."""


class NonRetryableError(FlujoError):
    """Raised by an agent to fail its step at once, whatever `max_retries` says."""


class BadCredentialsError(NonRetryableError):
    """The provider of a model does not know the key, or the key may not do that; the step fails at once."""


class ContentRefusedError(NonRetryableError):
    """A model or its provider refuses the content; the step fails at once."""


class ContextTooLongError(NonRetryableError):
    """The input is longer than the model takes; the step fails at once, and its fallback may take less or more."""


class QuotaExceededError(NonRetryableError):
    """The account at the provider of a model has no money or quota left; the step fails at once."""


class RetryLaterError(FlujoError):
    """Raised by an agent whose attempt failed because it came too soon; the next one waits.

    Attributes:
        after_s: Seconds to wait before the next attempt.
    """

    def __init__(self, message: str, *, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class OverloadedError(RetryLaterError):
    """The provider of a model is overloaded, or not there for the moment; the next attempt waits."""


class RateLimitedError(RetryLaterError):
    """The provider of a model had too many requests; the next attempt waits as long as it says."""


class PausedException(FlujoError):  # noqa: N818 - the name is part of the public vocabulary
    """Raised by an agent to wait for a person; the answer becomes the output of its step.

    Attributes:
        message: What the person is asked.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class PipelineAbortSignal(FlujoError):  # noqa: N818 - the name is part of the public vocabulary
    """Raised by a hook or an agent to stop the run gracefully, with `status == "aborted"`."""
