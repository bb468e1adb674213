"""What errors of models' providers mean for the next attempt, without the secrets that they may repeat.

Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager

from pydantic_ai.exceptions import (
    ContentFilterError,
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

_MOST_OF_CAUSE = 500  # characters
_OVERLOADED = 529  # an HTTP status that several providers answer with, and that no standard has
_UNSAID_WAIT_S = 1.0  # after a rate limit or an overload, if the provider does not say how long

_SECRETS = re.compile(
    r"""(?ix)
    (?: \b (?: sk | pk | rk | gsk | xai | ghp | hf ) [-_] [\w*-]{8,}
      | \b AIza [\w-]{20,}
      | (?<= bearer\s ) [\w.~+/=-]{8,}
      | (?<= key= ) [^\s&"']{8,} )
    """
)
"""Keys as providers make them, and what stands where a key would."""


def without_secrets(text: str) -> str:
    """Return a text with what looks like a key blacked out."""
    return _SECRETS.sub("***", text)


@contextmanager
def told_apart(answers: str) -> Generator[None]:
    """Raise errors of pydantic-ai and of providers as what they mean for the next attempt.

    Args:
        answers: What the agent answers, for the error of one that does not.
    """
    try:
        yield
    except ModelAPIError as error:
        meaning = _meaning(error)
        if meaning is None:
            raise
        raise meaning from _harmless(error)
    except UnexpectedModelBehavior as error:
        raise _behaviour(error, answers) from _harmless(error)


_FINAL: dict[type[ModelAPIError], tuple[type[NonRetryableError], str]] = {
    ModelAuthenticationError: (BadCredentialsError, "bad credentials"),
    ModelContextWindowExceededError: (ContextTooLongError, "the input is longer than the model takes"),
    ModelQuotaExceededError: (QuotaExceededError, "the quota of the account is used up"),
    ModelRequestRejectedError: (NonRetryableError, "the provider rejects the request"),
}
"""Another attempt would only repeat them; the more special ones first."""


def _meaning(error: ModelAPIError) -> FlujoError | None:
    """Return what an error means; `None` if it has no more to say than it does."""
    message = without_secrets(str(error))
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


def _behaviour(error: UnexpectedModelBehavior, answers: str) -> FlujoError:
    message = without_secrets(str(error))
    if isinstance(error, ContentFilterError):
        return ContentRefusedError(f"the model refuses the content: {message}")
    cause = error.__cause__
    said = "" if cause is None else f" ({without_secrets(' '.join(str(cause).split()))[:_MOST_OF_CAUSE]})"
    return AgentIOValidationError(f"the model gave no {answers}: {message}{said}")


def _harmless(error: Exception) -> Exception | None:
    """Return an error as the cause of another one; `None` if it repeats a secret, which a traceback would show."""
    seen: BaseException | None = error
    while seen is not None:
        if without_secrets(str(seen)) != str(seen):
            return None
        seen = seen.__cause__ or seen.__context__
    return error
