"""What a request to a model costs, and the most that it can cost.

A price is the one that the user has set, else that of the table in the package `genai_prices`, which is never renewed
over the network from here. The table decides only which prices hold when; the arithmetic is ours, because a sum of
money here is exact and its upper bound is a true one.

A price that leaves open what a request costs is no price: models paid by the hour, the page or the character, those
without a price for output, and those that the table lists without any price, unless `:free` is a part of their name.
Searches and other tools on the provider's side are not tokens, and are in neither the cost nor the bound.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from flujo.domain.money import ZERO, add_usd, exact_usd, multiply_usd, scale_usd
from flujo.exceptions import ConfigurationError, PricingNotConfiguredError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

_PROVIDERS: Mapping[str, str] = {
    "openai-chat": "openai",
    "openai-responses": "openai",
    "azure-responses": "azure",
    "google-gla": "google",
    "google-vertex": "google",
    "google-cloud": "google",
    "bedrock": "aws",
    "bedrock-mantle": "aws",
    "xai": "x-ai",
    "grok": "x-ai",
}
"""The name in the table of those providers that agents call otherwise; no other name is taken for another's."""


@dataclass(slots=True, frozen=True, kw_only=True)
class TokenUsage:
    """What one request to a model used.

    Raises:
        ValueError: A count is negative.

    Attributes:
        input_tokens: All input, whatever its kind.
        cached_input_tokens: Read from the provider's cache. Included in `input_tokens`.
        cache_write_tokens: Written to the provider's cache. Included in `input_tokens`.
        cache_write_1h_tokens: Written to be kept for an hour. Included in `cache_write_tokens`.
        input_audio_tokens: Included in `input_tokens`.
        input_image_tokens: Included in `input_tokens`.
        input_video_tokens: Included in `input_tokens`.
        cached_audio_tokens: Included in `cached_input_tokens` and in `input_audio_tokens`.
        cached_image_tokens: Included in `cached_input_tokens` and in `input_image_tokens`.
        output_tokens: All output, reasoning included.
        reasoning_tokens: Included in `output_tokens`; few models have a price of its own for it.
        output_audio_tokens: Included in `output_tokens`.
        output_image_tokens: Included in `output_tokens`.
        output_video_tokens: Included in `output_tokens`.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    input_video_tokens: int = 0
    cached_audio_tokens: int = 0
    cached_image_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    output_video_tokens: int = 0

    def __post_init__(self) -> None:
        counts = (kind.count(self) for kinds in (_INPUT, _OUTPUT) for kind in kinds.values())
        if min(counts) < 0:
            raise ValueError(f"a count of tokens is 0 or more, but not all are in {self!r}")


class Price(Protocol):
    """What requests to one model cost, in exact US dollars."""

    def cost(self, usage: TokenUsage, at: datetime, *, variant: Mapping[str, str] | None = None) -> Decimal:
        """Return what a request cost; it is never rounded.

        Tokens that are counted in two kinds at once, where the provider did not say how many, are charged at the
        dearer one; a part that is larger than its whole is taken for the whole.

        Args:
            usage: What it used.
            at: When it was made; a time without a zone is in UTC.
            variant: What the provider says of a request that was no ordinary one, such as
                `{"service_tier": "priority"}`; it may say other things besides.
        """
        ...

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the most that a request with at most so many tokens can cost, whatever their kinds and whenever.

        Raises:
            ValueError: A count is negative.
        """
        ...

    def affordable_output_tokens(self, input_tokens: int, usd: Decimal) -> int | None:
        """Return the most output tokens for which `bound` is within an amount.

        Returns:
            `None` if output costs nothing, and -1 if the amount is too little for the input.

        Raises:
            ValueError: The count is negative.
        """
        ...


@dataclass(slots=True, frozen=True)
class _Kind:
    """A kind of token, and the kinds that it is counted in besides, by their names in the table."""

    count: Callable[[TokenUsage], int]
    within: tuple[str, ...] = ()


# The most specific kinds come first.
_INPUT: Mapping[str, _Kind] = {
    "cache_audio_read_mtok": _Kind(
        lambda usage: usage.cached_audio_tokens, ("cache_read_mtok", "input_audio_mtok", "input_mtok")
    ),
    "cache_image_read_mtok": _Kind(
        lambda usage: usage.cached_image_tokens, ("cache_read_mtok", "input_image_mtok", "input_mtok")
    ),
    "cache_write_1h_mtok": _Kind(lambda usage: usage.cache_write_1h_tokens, ("cache_write_mtok", "input_mtok")),
    "cache_read_mtok": _Kind(lambda usage: usage.cached_input_tokens, ("input_mtok",)),
    "cache_write_mtok": _Kind(lambda usage: usage.cache_write_tokens, ("input_mtok",)),
    "input_audio_mtok": _Kind(lambda usage: usage.input_audio_tokens, ("input_mtok",)),
    "input_image_mtok": _Kind(lambda usage: usage.input_image_tokens, ("input_mtok",)),
    "input_video_mtok": _Kind(lambda usage: usage.input_video_tokens, ("input_mtok",)),
    "input_mtok": _Kind(lambda usage: usage.input_tokens),
}
_OUTPUT: Mapping[str, _Kind] = {
    "output_reasoning_mtok": _Kind(lambda usage: usage.reasoning_tokens, ("output_mtok",)),
    "output_audio_mtok": _Kind(lambda usage: usage.output_audio_tokens, ("output_mtok",)),
    "output_image_mtok": _Kind(lambda usage: usage.output_image_tokens, ("output_mtok",)),
    "output_video_mtok": _Kind(lambda usage: usage.output_video_tokens, ("output_mtok",)),
    "output_mtok": _Kind(lambda usage: usage.output_tokens),
}
_REQUESTS = "requests_kcount"
_TOOLS = {"web_searches_kcount", "social_searches_kcount", "storage_searches_kcount", "code_executions_kcount"}
_KNOWN = {*_INPUT, *_OUTPUT, _REQUESTS, *_TOOLS}


@dataclass(slots=True, frozen=True)
class _Tier:
    above: int
    """It holds for requests with more input tokens than this."""
    usd: Decimal


@dataclass(slots=True, frozen=True)
class _Rate:
    """Exact dollars for one token or one request; the highest tier that a request is in holds for all of it."""

    tiers: tuple[_Tier, ...]
    """Lowest first; every request is in the first one."""

    def at(self, input_tokens: int) -> Decimal:
        return next(tier.usd for tier in reversed(self.tiers) if tier.above < input_tokens)


_FREE = _Rate((_Tier(-1, ZERO),))


def _rate(price: "Decimal | TieredPrices", *, digits: int) -> _Rate:
    """Read the price of 10 to the power of so many digits."""
    if isinstance(price, Decimal):
        return _Rate((_Tier(-1, scale_usd(price, -digits)),))
    tiers = [_Tier(-1, price.base), *(_Tier(tier.start, tier.price) for tier in price.tiers)]
    return _Rate(tuple(_Tier(tier.above, scale_usd(tier.usd, -digits)) for tier in tiers))


def _dearest(rates: Iterable[_Rate]) -> _Rate:
    """Return a rate that is never below one of these, and never falls as a request grows."""
    tiers: list[_Tier] = []
    for tier in sorted((tier for rate in rates for tier in rate.tiers), key=lambda tier: (tier.above, tier.usd)):
        if not tiers or tier.usd > tiers[-1].usd:
            tiers.append(tier)
    return _Rate(tuple(tiers))


@dataclass(slots=True, frozen=True)
class _Tariff:
    """The rates that hold at one time, for the kinds of token that have their own, the most specific first."""

    input: Mapping[str, _Rate]
    output: Mapping[str, _Rate]
    request: _Rate = _FREE

    def cost(self, usage: TokenUsage) -> Decimal:
        tier_of = max((_INPUT[key].count(usage) for key in self.input), default=usage.input_tokens)
        total = add_usd(_charge(usage, _INPUT, self.input, tier_of), _charge(usage, _OUTPUT, self.output, tier_of))
        return add_usd(total, self.request.at(tier_of))


def _charge(usage: TokenUsage, kinds: Mapping[str, _Kind], rates: Mapping[str, _Rate], input_tokens: int) -> Decimal:
    """Charge each token once: what is left of a kind after the more specific ones is charged at its own rate."""
    rest = {key: kinds[key].count(usage) for key in rates}
    whole = max(rest.values(), default=0)
    parts: list[tuple[Decimal, int]] = []
    for key, rate in rates.items():
        tokens = max(rest[key], 0)
        parts.append((rate.at(input_tokens), tokens))
        for outer in kinds[key].within:
            if outer in rest:
                rest[outer] -= tokens
    total = ZERO
    # The parts are more than the whole if they overlap and nobody said how far.
    for usd, tokens in sorted(parts, reverse=True):
        charged = min(tokens, whole)
        whole -= charged
        total = add_usd(total, multiply_usd(usd, Decimal(charged)))
    return total


@dataclass(slots=True, frozen=True)
class _ModelPrice:
    """The price of a model: the tariff that holds at a time, and the dearest rates of all of its tariffs."""

    tariff: Callable[[datetime, Mapping[str, str] | None], _Tariff]
    input: _Rate
    output: _Rate
    request: _Rate

    def cost(self, usage: TokenUsage, at: datetime, *, variant: Mapping[str, str] | None = None) -> Decimal:
        return self.tariff(at, variant).cost(usage)

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        if input_tokens < 0 or output_tokens < 0:
            raise ValueError(f"a count of tokens is 0 or more, not {min(input_tokens, output_tokens)}")
        for_input = multiply_usd(self.input.at(input_tokens), Decimal(input_tokens))
        for_output = multiply_usd(self.output.at(input_tokens), Decimal(output_tokens))
        return add_usd(add_usd(for_input, for_output), self.request.at(input_tokens))

    def affordable_output_tokens(self, input_tokens: int, usd: Decimal) -> int | None:
        left = Fraction(usd) - Fraction(self.bound(input_tokens, 0))
        if left < 0:
            return -1
        for_one = self.output.at(input_tokens)
        return left // Fraction(for_one) if for_one else None


def _model_price(
    tariff: Callable[[datetime, Mapping[str, str] | None], _Tariff], every: Iterable[_Tariff]
) -> _ModelPrice:
    tariffs = list(every)
    return _ModelPrice(
        tariff,
        _dearest([_FREE, *(rate for each in tariffs for rate in each.input.values())]),
        _dearest([_FREE, *(rate for each in tariffs for rate in each.output.values())]),
        _dearest([_FREE, *(each.request for each in tariffs)]),
    )


_set_prices: dict[str, Price] = {}  # each use is one operation of the dict, which threads may share


def set_price(
    model: str,
    *,
    input_usd_per_mtok: Decimal | float,
    output_usd_per_mtok: Decimal | float,
    cached_input_usd_per_mtok: Decimal | float | None = None,
    request_usd: Decimal | float | None = None,
) -> None:
    """Set what a model costs, whatever the price table says, in place of what was set before.

    Amounts are US dollars; a float is read as the decimal it prints as.

    Args:
        model: Such as `openai:gpt-4o`; a price for `openai:` holds for `openai-chat:` and `openai-responses:` too, and
            likewise with other providers that agents know under several names.
        input_usd_per_mtok: For a million tokens of input, of every kind.
        output_usd_per_mtok: For a million tokens of output, reasoning included.
        cached_input_usd_per_mtok: For a million tokens of input read from the provider's cache; `None` for the price
            of other input.
        request_usd: For each request, besides its tokens; `None` for nothing.

    Raises:
        ConfigurationError: The name has no provider, or an amount is not a price; nothing is changed.

    Example:
        ```python
        from datetime import UTC, datetime

        from flujo.agents.prices import TokenUsage, find_price, set_price
        from flujo.domain.money import format_usd

        set_price("openai:my-model", input_usd_per_mtok=1.5, output_usd_per_mtok=6)
        price = find_price("openai:my-model")
        assert price is not None
        cost = price.cost(TokenUsage(input_tokens=1000, output_tokens=100), datetime.now(UTC))
        assert format_usd(cost) == "$0.0021"
        ```
    """
    provider, _, name = model.partition(":")
    if not provider or not name:
        raise ConfigurationError(f'the model {model!r} has no provider or no name; write "provider:model"')
    for_input = {"input_mtok": _set_rate(input_usd_per_mtok, "input_usd_per_mtok", digits=6)}
    for_output = {"output_mtok": _set_rate(output_usd_per_mtok, "output_usd_per_mtok", digits=6)}
    if cached_input_usd_per_mtok is not None:
        for_cached = _set_rate(cached_input_usd_per_mtok, "cached_input_usd_per_mtok", digits=6)
        for_input = {"cache_read_mtok": for_cached, **for_input}
    request = _FREE if request_usd is None else _set_rate(request_usd, "request_usd", digits=0)
    tariff = _Tariff(for_input, for_output, request)
    _set_prices[model] = _model_price(lambda _at, _variant: tariff, [tariff])


def _set_rate(amount: Decimal | float, argument: str, *, digits: int) -> _Rate:
    try:
        return _rate(exact_usd(amount), digits=digits)
    except ValueError as error:
        raise ConfigurationError(f"{argument} is {amount!r}: {error}") from error


def reset_prices() -> None:
    """Forget every price that was set, as a test wants it."""
    _set_prices.clear()


def find_price(model: str, *, provider: str | None = None) -> Price | None:
    """Return what a model costs: the price that was set, else that of the price table.

    Args:
        model: Such as `openai:gpt-4o`. The price belongs to the name, whatever the base URL.
        provider: The provider, if `model` is the name alone, colons and all.

    Returns:
        `None` if the price is not known.
    """
    return _find(model, provider, needed={"input_mtok", "output_mtok"})


def find_embedding_price(model: str, *, provider: str | None = None) -> Price | None:
    """Return what a model for embeddings costs, which has no output to pay for; otherwise as `find_price` does."""
    return _find(model, provider, needed={"input_mtok"})


def _find(model: str, provider: str | None, *, needed: AbstractSet[str]) -> Price | None:
    if provider is None:
        provider, _, model = model.partition(":")
    owner = provider.removeprefix("gateway/")
    owner = _PROVIDERS.get(owner, owner)
    price = _set_prices.get(f"{provider}:{model}") or _set_prices.get(f"{owner}:{model}")
    return price or _find_in_table(owner, model, needed)


def no_price(model: str) -> PricingNotConfiguredError:
    """Return the error for a model without a price under a limit in dollars."""
    return PricingNotConfiguredError(
        f"no price is known for the model {model!r}, so a limit in dollars cannot hold; "
        f"give it one with set_price({model!r}, input_usd_per_mtok=..., output_usd_per_mtok=...), or in the table "
        "[prices] of flujo.toml",
        model=model,
    )


def _find_in_table(owner: str, name: str, needed: AbstractSet[str]) -> Price | None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    # The table's own search for a provider takes every name with "google" in it for Google.
    provider = next((each for each in snapshot.providers if each.id == owner), None)
    if provider is None:
        return None
    try:
        _, model = snapshot.find_provider_model(name, provider, None, None)
    except LookupError:
        return None
    return _table_price(model, needed, is_free=name.endswith(":free"))


def _table_price(model: "ModelInfo", needed: AbstractSet[str], *, is_free: bool) -> Price | None:
    standard = [each.prices for each in model.prices] if isinstance(model.prices, list) else [model.prices]
    every = [*standard, *(variant.prices for variant in model.price_variants or ())]
    if any(not _KNOWN.issuperset(_prices_in(prices)) for prices in every):
        return None
    is_complete = standard and all(needed <= _prices_in(prices).keys() for prices in standard)
    is_free = is_free and not any(_prices_in(prices) for prices in every)
    if not is_complete and not is_free:
        return None
    return _model_price(
        lambda at, variant: _tariff(model.get_prices(at, variant)), [_tariff(prices) for prices in every]
    )


def _prices_in(prices: "ModelPrice") -> "dict[str, Decimal | TieredPrices]":
    return {key: price for key, price in vars(prices).items() if price is not None}


def _tariff(prices: "ModelPrice") -> _Tariff:
    found = _prices_in(prices)
    return _Tariff(
        {key: _rate(found[key], digits=6) for key in _INPUT if key in found},
        {key: _rate(found[key], digits=6) for key in _OUTPUT if key in found},
        _rate(found[_REQUESTS], digits=3) if _REQUESTS in found else _FREE,
    )
