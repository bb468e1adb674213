"""One call of a model, as it is reserved before it and charged after it.

Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.usage import RequestUsage

from flujo.agents.prices import Price, TokenUsage, find_embedding_price, find_price, no_price
from flujo.domain.metering import Bound, Meter, Reservation
from flujo.domain.money import ZERO
from flujo.exceptions import UnboundedCallError
from flujo.utils.warn_once import warn_once

_log = logging.getLogger("flujo.agents")

_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")  # of httpx2: no connection, so nothing to bill


@dataclass(slots=True)
class ModelCall:
    """One request to a model: so many input tokens at the most, and as many output tokens as are granted."""

    input_tokens: int
    max_output_tokens: int
    min_output_tokens: int
    price: Price | None

    @property
    def least(self) -> Bound:
        """What it can use with the least output that is useful."""
        return self._bound(min(self.min_output_tokens, self.max_output_tokens))

    def within(self, usd: Decimal | None, tokens: int | None) -> Bound | None:
        """Return what it can use with as much output as fits; `None` if that is too little."""
        granted = self.max_output_tokens
        if tokens is not None:
            granted = min(granted, tokens - self.input_tokens)
        if usd is not None and self.price is not None:
            affordable = self.price.affordable_output_tokens(self.input_tokens, usd)
            granted = granted if affordable is None else min(granted, affordable)
        if granted < min(self.min_output_tokens, self.max_output_tokens):
            return None
        return self._bound(granted)

    def _bound(self, output_tokens: int) -> Bound:
        cost = ZERO if self.price is None else self.price.bound(self.input_tokens, output_tokens)
        return Bound(cost, self.input_tokens + output_tokens)


def price_of(system: str, model: str, meter: Meter, *, is_for_embeddings: bool = False) -> Price | None:
    """Return what a model of a provider costs; warn once if nobody knows, and no limit in dollars needs it.

    Raises:
        PricingNotConfiguredError: A limit in dollars needs it.
    """
    find, name = find_embedding_price if is_for_embeddings else find_price, f"{system}:{model}"
    price = find(model, provider=system)
    if price is None:
        if meter.has_usd_limit:
            raise no_price(name)
        warn_once(_log, f"no price is known for the model {name!r}: what it costs is not counted; see set_price")
    return price


def end_failed(reservation: Reservation, error: BaseException) -> bool:
    """Charge nothing for a request that was answered by an HTTP error or never sent, and all of it for others.

    Returns:
        Whether nobody knows what it has cost.
    """
    is_refused = isinstance(error, ModelHTTPError) and not error.in_stream
    if is_refused or (isinstance(error, ModelAPIError) and _was_never_sent(error)):
        reservation.release()
        return False
    reservation.lose()
    return True


def _was_never_sent(error: BaseException) -> bool:
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if type(cause).__name__ in _NEVER_SENT:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def settle(
    reservation: Reservation, call: ModelCall, usage: RequestUsage, variant: Mapping[str, str] | None = None
) -> tuple[Decimal, int]:
    """Charge what the provider says it used, all that was reserved if it does not say; return what was charged."""
    if not usage.input_tokens and not usage.output_tokens:
        reservation.lose()
        return reservation.bound.cost, reservation.bound.tokens
    cost = ZERO if call.price is None else call.price.cost(_token_usage(usage), datetime.now(UTC), variant=variant)
    tokens = usage.input_tokens + usage.output_tokens
    reservation.settle(cost, tokens)
    return cost, tokens


def _token_usage(usage: RequestUsage) -> TokenUsage:
    return TokenUsage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        cached_audio_tokens=usage.cache_audio_read_tokens,
        output_audio_tokens=usage.output_audio_tokens,
    )


def unbounded(why: str) -> UnboundedCallError:
    """Return the error for a call for which a limit cannot hold."""
    return UnboundedCallError(f"{why}; say what a call costs at the most with Step(..., max_cost_usd=...)")


def refuse_or_doubt(meter: Meter, why: str, uncounted: str) -> None:
    """Refuse a call that nobody knows the cost of, if a limit has to hold for it; say once else that it is not counted.

    Raises:
        UnboundedCallError: A limit has to hold.
    """
    if meter.has_limit:
        raise unbounded(why)
    meter.doubt()
    warn_once(_log, uncounted)
