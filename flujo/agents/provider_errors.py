"""What errors of models' providers mean for the next attempt, without the secrets that they may repeat.

Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from pydantic_ai.exceptions import (
    ContentFilterError,
    FallbackExceptionGroup,
    ModelAPIError,
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
)
from pydantic_ai.models.fallback import FallbackModel

from flujo.exceptions import (
    AgentIOValidationError,
    BadCredentialsError,
    ContentRefusedError,
    ContextTooLongError,
    FlujoError,
    NonRetryableError,
    OverloadedError,
    QuotaExceededError,
    RateLimitedError,
    RetryLaterError,
)
from flujo.utils.secrets import mask_secrets

_MOST_OF_CAUSE = 500  # characters
_OVERLOADED = 529  # an HTTP status that several providers answer with, and that no standard has
_UNSAID_WAIT_S = 1.0  # after a rate limit or an overload, if the provider does not say how long


@contextmanager
def told_apart(answers: str, keys: Iterable[str] = ()) -> Generator[None]:
    """Raise errors of pydantic-ai and of providers as what they mean for the next attempt.

    Args:
        answers: What the agent answers, for the error of one that does not.
        keys: Secrets that must not be seen in any of them.
    """
    try:
        yield
    except ModelAPIError as error:
        meaning = _meaning(error, keys)
        if meaning is None:
            raise
        raise meaning from _harmless(error, keys)
    except FallbackExceptionGroup as error:
        raise _of_all(error, keys) from _harmless(error, keys)
    except UnexpectedModelBehavior as error:
        raise _behaviour(error, answers, keys) from _harmless(error, keys)


def keys_of(model: object) -> list[str]:
    """Return the keys that the clients of a model, or of several that stand in for each other, have."""
    models: Iterable[object] = model.models if isinstance(model, FallbackModel) else [model]
    keys = [getattr(getattr(each, "client", None), "api_key", None) for each in models]
    return [key for key in keys if isinstance(key, str)]


_FINAL: dict[type[ModelAPIError], tuple[type[NonRetryableError], str]] = {
    ModelAuthenticationError: (BadCredentialsError, "bad credentials"),
    ModelContextWindowExceededError: (ContextTooLongError, "the input is longer than the model takes"),
    ModelQuotaExceededError: (QuotaExceededError, "the quota of the account is used up"),
    ModelRequestRejectedError: (NonRetryableError, "the provider rejects the request"),
}
"""Another attempt would only repeat them; the more special ones first."""


def _meaning(error: ModelAPIError, keys: Iterable[str]) -> FlujoError | None:
    """Return what an error means; `None` if it has no more to say than it does."""
    message = mask_secrets(str(error), keys)
    for kind, (final, what) in _FINAL.items():
        if isinstance(error, kind):
            return final(f"{what}: {message}")
    wait_s = _UNSAID_WAIT_S if error.retry_after is None else error.retry_after
    if isinstance(error, ModelRateLimitError):
        return RateLimitedError(f"too many requests: {message}", after_s=wait_s)
    if isinstance(error, ModelUnavailableError) or _status_of(error) == _OVERLOADED:
        return OverloadedError(f"the provider is overloaded: {message}", after_s=wait_s)
    if error.retry_after is not None:
        return RetryLaterError(message, after_s=error.retry_after)
    return None if message == str(error) else FlujoError(message)


def _status_of(error: ModelAPIError) -> int | None:
    return error.status_code if isinstance(error, ModelHTTPError) else None


def _behaviour(error: UnexpectedModelBehavior, answers: str, keys: Iterable[str]) -> FlujoError:
    message = mask_secrets(str(error), keys)
    if isinstance(error, ContentFilterError):
        return ContentRefusedError(f"the model refuses the content: {message}")
    cause = error.__cause__
    said = "" if cause is None else f" ({mask_secrets(' '.join(str(cause).split()), keys)[:_MOST_OF_CAUSE]})"
    return AgentIOValidationError(f"the model gave no {answers}: {message}{said}")


def _of_all(group: FallbackExceptionGroup, keys: Iterable[str]) -> FlujoError:
    """Return what it means that all models failed that stand in for each other: one that may pass is waited for."""
    said = "; ".join(mask_secrets(" ".join(str(each).split()), keys) for each in _leaves(group))
    meanings = [_meaning(each, keys) for each in _leaves(group) if isinstance(each, ModelAPIError)]
    waits_s = [meaning.after_s for meaning in meanings if isinstance(meaning, RetryLaterError)]
    if waits_s:
        return RetryLaterError(f"all models failed: {said}", after_s=min(waits_s))
    is_final = meanings and all(isinstance(meaning, NonRetryableError) for meaning in meanings)
    return (NonRetryableError if is_final else FlujoError)(f"all models failed: {said}")


def _leaves(group: "BaseExceptionGroup[BaseException]") -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", each))
        else:
            yield each


def _harmless(error: Exception, keys: Iterable[str]) -> Exception | None:
    """Return an error as the cause of another one; `None` if it repeats a secret, which a traceback would show."""
    pending, seen = list[BaseException]([error]), list[BaseException]()
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.append(each)
        if mask_secrets(str(each), keys) != str(each):
            return None
        pending += [other for other in (each.__cause__, each.__context__) if other is not None]
        pending += _leaves(each) if isinstance(each, FallbackExceptionGroup) else ()
    return error
