"""A price is exact, is never guessed, and its bound is above everything that a request can cost."""

import decimal
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
    Usage,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from flujo.agents.prices import Price, TokenUsage, find_price, reset_prices, set_price
from flujo.domain.money import ZERO, add_usd
from flujo.exceptions import ConfigurationError

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MILLION = 1_000_000


@pytest.fixture(autouse=True)
def no_prices_set() -> Iterator[None]:
    """Leave no price behind."""
    yield
    reset_prices()


def price_of(model: str) -> Price:
    """Return a price that there is."""
    price = find_price(model)
    assert price is not None
    return price


# The table that comes with genai_prices


def _known_models() -> list[str]:
    names = [f"{provider.id}:{model.id}" for provider in get_snapshot().providers for model in provider.models]
    return [name for name in names if find_price(name) is not None]


KNOWN_MODELS = _known_models()


def in_table(name: str) -> tuple[Provider, ModelInfo]:
    """Return what the table has under a name such as `openai:gpt-4o`."""
    owner, _, model = name.partition(":")
    return get_snapshot().find_provider_model(model, None, owner, None)


def cost_in_table(name: str, usage: TokenUsage, at: datetime) -> Decimal:
    """Let genai_prices compute a cost, with more digits than it needs."""
    provider, model = in_table(name)
    counts = Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        input_image_tokens=usage.input_image_tokens,
        input_video_tokens=usage.input_video_tokens,
        cache_audio_read_tokens=usage.cached_audio_tokens,
        cache_image_read_tokens=usage.cached_image_tokens,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        output_image_tokens=usage.output_image_tokens,
        output_video_tokens=usage.output_video_tokens,
    )
    with decimal.localcontext(prec=100):
        return model.calc_price(counts, provider, genai_request_timestamp=at).total_price


def whole_usage(parts: Mapping[str, int]) -> TokenUsage:
    """Add up parts that do not overlap, so that each is included where it belongs."""
    cached = parts["cached"] + parts["cached_audio"] + parts["cached_image"]
    written = parts["write"] + parts["write_1h"]
    audio, image = parts["audio"] + parts["cached_audio"], parts["image"] + parts["cached_image"]
    return TokenUsage(
        input_tokens=parts["text"] + cached + written + parts["audio"] + parts["image"] + parts["video"],
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=parts["write_1h"],
        input_audio_tokens=audio,
        input_image_tokens=image,
        input_video_tokens=parts["video"],
        cached_audio_tokens=parts["cached_audio"],
        cached_image_tokens=parts["cached_image"],
        output_tokens=sum(parts[key] for key in OUTPUT_PARTS),
        reasoning_tokens=parts["reasoning"],
        output_audio_tokens=parts["out_audio"],
        output_image_tokens=parts["out_image"],
        output_video_tokens=parts["out_video"],
    )


INPUT_PARTS = ["text", "cached", "cached_audio", "cached_image", "write", "write_1h", "audio", "image", "video"]
OUTPUT_PARTS = ["out_text", "reasoning", "out_audio", "out_image", "out_video"]
PARTS = INPUT_PARTS + OUTPUT_PARTS

counts_of_tokens = st.one_of(st.integers(0, 2 * MILLION), st.sampled_from([0, 1, 200_000, 200_001, 272_001]))
moments = st.integers(0, 200 * MILLION).map(lambda after: datetime(2023, 1, 1, tzinfo=UTC) + timedelta(seconds=after))
exact_usages = st.fixed_dictionaries(dict.fromkeys(PARTS, counts_of_tokens)).map(whole_usage)


@st.composite
def overlapping_usages(draw: st.DrawFn) -> TokenUsage:
    """Parts are within their wholes, and may overlap without saying how far."""

    def part(*wholes: int) -> int:
        return draw(st.integers(0, min(wholes)))

    n, m = draw(counts_of_tokens), draw(counts_of_tokens)
    cached, written, audio, image, video = part(n), part(n), part(n), part(n), part(n)
    return TokenUsage(
        input_tokens=n,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=part(written),
        input_audio_tokens=audio,
        input_image_tokens=image,
        input_video_tokens=video,
        cached_audio_tokens=part(cached, audio),
        cached_image_tokens=part(cached, image),
        output_tokens=m,
        reasoning_tokens=part(m),
        output_audio_tokens=part(m),
        output_image_tokens=part(m),
        output_video_tokens=part(m),
    )


usages = st.one_of(exact_usages, overlapping_usages())


def variants_of(name: str) -> list[dict[str, str] | None]:
    """Return what a request for a model can be, an ordinary one first."""
    _, model = in_table(name)
    return [None, *(variant.when for variant in model.price_variants or ())]


def test_the_table_is_read() -> None:
    """Most models of the table have a price, those of the great providers among them."""
    assert len(KNOWN_MODELS) > 1000
    assert {"openai:gpt-4o", "anthropic:claude-opus-4-8", "google:gemini-2.5-pro"} <= set(KNOWN_MODELS)


def test_every_model_of_the_table_is_priced_as_the_table_says() -> None:
    """Costs are those that genai_prices computes, for all kinds of token, and on both sides of every tier."""
    mixed = whole_usage({key: 1000 + 7 * place for place, key in enumerate(PARTS)})
    usages = [mixed, replace(mixed, input_tokens=150_000), replace(mixed, input_tokens=MILLION)]

    for name, usage in itertools.product(KNOWN_MODELS, usages):
        assert price_of(name).cost(usage, NOON) == cost_in_table(name, usage, NOON), name


def test_every_model_of_the_table_is_bounded() -> None:
    """No single kind of token, and no variant of a request, is dearer than the bound."""
    wholes = TokenUsage(input_tokens=300_000, output_tokens=300_000)
    kinds = [field.name for field in fields(TokenUsage) if field.name not in {"input_tokens", "output_tokens"}]
    usages = [wholes, *(replace(wholes, **{kind: 300_000}) for kind in kinds)]

    for name in KNOWN_MODELS:
        price = price_of(name)
        most = price.bound(300_000, 300_000)
        for usage, variant in itertools.product(usages, variants_of(name)):
            assert price.cost(usage, NOON, variant=variant) <= most, (name, usage, variant)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(KNOWN_MODELS), usages, moments, st.integers(0, 1000))
def test_a_bound_is_never_passed(data: st.DataObject, name: str, usage: TokenUsage, at: datetime, more: int) -> None:
    """Whatever a request with at most so many tokens uses, whenever and however, it costs no more."""
    price = price_of(name)
    variant = data.draw(st.sampled_from(variants_of(name)))

    cost = price.cost(usage, at, variant=variant)

    assert ZERO <= cost <= price.bound(usage.input_tokens, usage.output_tokens)
    assert cost <= price.bound(usage.input_tokens + more, usage.output_tokens + more)


@settings(max_examples=200)
@given(st.sampled_from(KNOWN_MODELS), exact_usages, moments)
def test_a_cost_is_that_of_the_table(name: str, usage: TokenUsage, at: datetime) -> None:
    """Where nothing is left open, a cost is that which genai_prices computes with digits enough."""
    assert price_of(name).cost(usage, at) == cost_in_table(name, usage, at)


# A table of our own, whose numbers are known


def _sole_provider(model_id: str, **described: Any) -> Provider:
    model = ModelInfo(id=model_id, match=ClauseEquals(equals=model_id), **described)
    return Provider(id="openai", name="OpenAI", api_pattern="x", models=[model])


def _flat(**prices: int | str) -> ModelPrice:
    return ModelPrice(**{key: Decimal(price) for key, price in prices.items()})


@pytest.fixture
def table_of_one(request: pytest.FixtureRequest) -> Iterator[Price | None]:
    """Put one model into the table, and find its price."""
    set_custom_snapshot(DataSnapshot(providers=[_sole_provider("m", **request.param)], from_auto_update=False))
    yield find_price("openai:m")
    set_custom_snapshot(None)


def table(**described: Any) -> pytest.MarkDecorator:
    """Let a test have a table with one model."""
    return pytest.mark.parametrize("table_of_one", [described], indirect=True)


tiered = table(
    prices=ModelPrice(
        input_mtok=TieredPrices(base=Decimal(2), tiers=[Tier(start=200_000, price=Decimal(4))]),
        output_mtok=TieredPrices(base=Decimal(10), tiers=[Tier(start=200_000, price=Decimal(15))]),
    )
)
common_kinds = table(
    prices=_flat(
        input_mtok=10,
        cache_read_mtok=1,
        cache_write_mtok=12,
        cache_write_1h_mtok=20,
        output_mtok=50,
        output_audio_mtok=80,
    )
)
audio_kinds = table(
    prices=_flat(input_mtok=10, cache_read_mtok=1, input_audio_mtok=40, cache_audio_read_mtok=3, output_mtok=50)
)


@common_kinds
@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (TokenUsage(input_tokens=1000), 10_000),
        (TokenUsage(input_tokens=1000, cached_input_tokens=900), 100 * 10 + 900),
        (TokenUsage(input_tokens=1000, cache_write_tokens=600), 400 * 10 + 600 * 12),
        (
            TokenUsage(input_tokens=1000, cache_write_tokens=600, cache_write_1h_tokens=100),
            400 * 10 + 500 * 12 + 100 * 20,
        ),
        (TokenUsage(input_tokens=1000, input_audio_tokens=500), 10_000),
        (TokenUsage(output_tokens=1000), 50_000),
        (TokenUsage(output_tokens=1000, reasoning_tokens=900), 50_000),
        (TokenUsage(output_tokens=1000, output_audio_tokens=100), 900 * 50 + 100 * 80),
        (TokenUsage(), 0),
    ],
)
def test_each_token_is_charged_once_at_the_rate_of_its_kind(table_of_one: Price, usage: TokenUsage, cost: int) -> None:
    """A part is taken out of its whole, and a kind without its own price, such as reasoning, costs as its whole."""
    assert table_of_one.cost(usage, NOON) * MILLION == cost


@audio_kinds
@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (
            TokenUsage(input_tokens=1000, cached_input_tokens=300, input_audio_tokens=500, cached_audio_tokens=200),
            400 * 10 + 100 + 300 * 40 + 200 * 3,
        ),
        # 50 are both cached and audio, at least.
        (TokenUsage(input_tokens=100, cached_input_tokens=90, input_audio_tokens=60), 60 * 40 + 40),
        (TokenUsage(input_tokens=10, cached_input_tokens=90), 90),
        (TokenUsage(input_tokens=10, input_audio_tokens=90), 90 * 40),
    ],
)
def test_kinds_that_overlap_are_charged_once(table_of_one: Price, usage: TokenUsage, cost: int) -> None:
    """Where it is not said how far kinds overlap, the dearer one counts; a part larger than its whole is the whole."""
    assert table_of_one.cost(usage, NOON) * MILLION == cost


@tiered
def test_the_highest_tier_holds_for_all_of_a_request(table_of_one: Price) -> None:
    """One token of input above a tier's start makes all input and all output dearer."""
    below = TokenUsage(input_tokens=200_000, output_tokens=1000)
    above = TokenUsage(input_tokens=200_001, output_tokens=1000)

    assert table_of_one.cost(below, NOON) == table_of_one.bound(200_000, 1000) == Decimal("0.41")
    assert table_of_one.cost(above, NOON) == table_of_one.bound(200_001, 1000) == Decimal("0.815004")


@table(
    prices=ModelPrice(
        input_mtok=TieredPrices(base=Decimal(4), tiers=[Tier(start=100, price=Decimal(1))]), output_mtok=Decimal(10)
    )
)
def test_a_bound_holds_for_smaller_requests_too(table_of_one: Price) -> None:
    """Where a larger request is cheaper by the token, the bound counts on a smaller one."""
    assert table_of_one.cost(TokenUsage(input_tokens=101), NOON) * MILLION == 101
    assert table_of_one.bound(101, 0) * MILLION == 404


@table(
    prices=[
        ConditionalPrice(prices=_flat(input_mtok=3, output_mtok=3)),
        ConditionalPrice(StartDateConstraint(date(2026, 1, 1)), prices=_flat(input_mtok=1, output_mtok=1)),
        ConditionalPrice(TimeOfDateConstraint(time(20), time(22)), prices=_flat(input_mtok=2, output_mtok=5)),
    ]
)
@pytest.mark.parametrize(
    ("at", "cost"),
    [
        (datetime(2025, 12, 31, 12, tzinfo=UTC), 6),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), 2),
        (datetime(2026, 1, 1, 21, tzinfo=UTC), 7),
    ],
)
def test_a_price_is_that_of_its_time(table_of_one: Price, at: datetime, cost: int) -> None:
    """The price that holds at the time of the request counts, and the bound is above those of all times."""
    assert table_of_one.cost(TokenUsage(input_tokens=1, output_tokens=1), at) * MILLION == cost
    assert table_of_one.bound(1, 1) * MILLION == 3 + 5


@table(
    prices=_flat(input_mtok=2, cache_read_mtok=1, output_mtok=4, requests_kcount=5, web_searches_kcount=10),
    price_variants=[PriceVariant(when={"service_tier": "priority"}, prices=_flat(input_mtok=6, output_mtok=8))],
)
def test_a_variant_of_a_request_has_its_price(table_of_one: Price) -> None:
    """A variant replaces the prices that it names, and what the provider says besides does not matter."""
    usage = TokenUsage(input_tokens=100, cached_input_tokens=50, output_tokens=10)
    request = Decimal("0.005")

    ordinary = table_of_one.cost(usage, NOON, variant={"service_tier": "default"})
    priority = table_of_one.cost(usage, NOON, variant={"service_tier": "priority", "finish_reason": "stop"})

    assert ordinary == table_of_one.cost(usage, NOON) == request + Decimal(50 * 2 + 50 + 10 * 4) / MILLION
    assert priority == request + Decimal(50 * 6 + 50 + 10 * 8) / MILLION
    assert table_of_one.bound(100, 10) == request + Decimal(100 * 6 + 10 * 8) / MILLION


@pytest.mark.parametrize(
    "table_of_one",
    [
        {"prices": _flat(input_mtok=1)},
        {"prices": _flat(output_mtok=1)},
        {"prices": _flat(input_mtok=1, output_mtok=1, audio_hours=1)},
        {"prices": _flat(input_document_kpages=1)},
        {"prices": _flat(input_mtok=1, output_mtok=1, output_smell_mtok=1)},
        {"prices": ModelPrice()},
        {"prices": []},
        {
            "prices": [
                ConditionalPrice(prices=_flat(input_mtok=1, output_mtok=1)),
                ConditionalPrice(prices=ModelPrice()),
            ]
        },
        {
            "prices": _flat(input_mtok=1, output_mtok=1),
            "price_variants": [PriceVariant(when={"a": "b"}, prices=_flat(audio_hours=1))],
        },
    ],
    indirect=True,
)
def test_a_price_that_leaves_something_open_is_none(table_of_one: Price | None) -> None:
    """What is paid for by other things than tokens and requests, or has no price for output, is not priced."""
    assert table_of_one is None


@pytest.mark.parametrize(("prices", "is_free"), [(ModelPrice(), True), (_flat(input_mtok=1), False)])
def test_a_model_is_free_if_its_name_says_so(prices: ModelPrice, is_free: bool) -> None:  # noqa: FBT001  # a case
    """A model that is called `:free` and is listed without any price costs nothing; with half a price it is unknown."""
    set_custom_snapshot(DataSnapshot(providers=[_sole_provider("m:free", prices=prices)], from_auto_update=False))
    try:
        price = find_price("openai:m:free")
    finally:
        set_custom_snapshot(None)

    assert (price is not None) == is_free
    if price is not None:
        assert price.cost(TokenUsage(input_tokens=MILLION, output_tokens=MILLION), NOON) == ZERO
        assert price.bound(MILLION, MILLION) == ZERO
        assert price.affordable_output_tokens(MILLION, ZERO) is None


# Names


@pytest.mark.parametrize(
    "model",
    [
        "openai:no-such-model",
        "no-such-provider:gpt-4o",
        "my-openai-proxy:gpt-4o",
        "test:test",
        "gpt-4o",
        "openai:",
        ":gpt-4o",
        "",
    ],
)
def test_an_unknown_price_is_none(model: str) -> None:
    """A model or a provider that is not known has no price: not zero, and not that of somebody else."""
    assert find_price(model) is None


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("openai-chat:gpt-4o", "openai:gpt-4o"),
        ("openai-responses:gpt-4o", "openai:gpt-4o"),
        ("gateway/openai:gpt-4o", "openai:gpt-4o"),
        ("google-gla:gemini-2.5-pro", "google:gemini-2.5-pro"),
        ("google-vertex:gemini-2.5-pro", "google:gemini-2.5-pro"),
        ("xai:grok-4.3", "x-ai:grok-4.3"),
        ("grok:grok-4.3", "x-ai:grok-4.3"),
        ("bedrock:amazon.nova-pro-v1:0", "aws:amazon.nova-pro-v1:0"),
        ("azure:gpt-4o", "openai:gpt-4o"),
    ],
)
def test_a_provider_is_known_by_the_name_that_agents_use(model: str, same: str) -> None:
    """Agents call some providers otherwise than the table does."""
    usage = TokenUsage(input_tokens=1000, output_tokens=1000)

    assert price_of(model).cost(usage, NOON) == price_of(same).cost(usage, NOON) > ZERO


def test_a_provider_may_be_given_apart() -> None:
    """With its provider given apart, a model's name may have colons."""
    set_price("openrouter:some/model:free", input_usd_per_mtok=0, output_usd_per_mtok=0)

    assert find_price("some/model:free", provider="openrouter") is find_price("openrouter:some/model:free") is not None
    assert find_price("gpt-4o", provider="openai") is not None


# Prices that are set

amounts = st.one_of(
    st.decimals(0, 10**6, allow_nan=False, allow_infinity=False),
    st.floats(0, 1e6),
    st.integers(0, 10**6),
)
maybe = st.one_of(st.none(), amounts)


def test_a_price_that_is_set_comes_first() -> None:
    """A set price is taken in place of the table's and of an earlier one, until prices are reset."""
    usage = TokenUsage(input_tokens=MILLION)
    in_the_table = price_of("openai:gpt-4o").cost(usage, NOON)

    set_price("openai:gpt-4o", input_usd_per_mtok=7, output_usd_per_mtok=8)
    set_price("openai:gpt-4o", input_usd_per_mtok=70, output_usd_per_mtok=8)
    as_set = price_of("openai:gpt-4o").cost(usage, NOON)
    reset_prices()

    assert as_set == 70
    assert price_of("openai:gpt-4o").cost(usage, NOON) == in_the_table


def test_a_set_price_holds_for_the_other_names_of_the_provider() -> None:
    """A price for `openai:` holds for `openai-responses:`, unless that has one of its own."""
    usage = TokenUsage(input_tokens=MILLION)
    set_price("openai:m", input_usd_per_mtok=1, output_usd_per_mtok=1)
    set_price("openai-chat:m", input_usd_per_mtok=2, output_usd_per_mtok=1)

    assert price_of("openai-responses:m").cost(usage, NOON) == 1
    assert price_of("openai-chat:m").cost(usage, NOON) == 2
    assert find_price("azure:m") is None


def test_each_part_of_a_set_price_is_charged() -> None:
    """Cached input has its own price, writing to the cache costs as other input, and a request has a price itself."""
    set_price("a:m", input_usd_per_mtok=1.5, output_usd_per_mtok=6, cached_input_usd_per_mtok=0.75, request_usd=0.01)
    set_price("a:simple", input_usd_per_mtok=1.5, output_usd_per_mtok=6)
    usage = TokenUsage(
        input_tokens=1000,
        cached_input_tokens=400,
        cache_write_tokens=100,
        input_audio_tokens=100,
        output_tokens=10,
        reasoning_tokens=5,
    )

    assert price_of("a:m").cost(usage, NOON) == Decimal("0.01") + Decimal("0.0009") + Decimal("0.0003") + Decimal(
        "0.00006"
    )
    assert price_of("a:m").bound(1000, 10) == Decimal("0.01") + Decimal("0.0015") + Decimal("0.00006")
    assert price_of("a:simple").cost(usage, NOON) == Decimal("0.0015") + Decimal("0.00006")


@pytest.mark.parametrize("amount", [-1, -0.5, float("nan"), float("inf"), Decimal("-1"), 1e15, True, "1", [1]])
@pytest.mark.parametrize(
    "argument", ["input_usd_per_mtok", "output_usd_per_mtok", "cached_input_usd_per_mtok", "request_usd"]
)
def test_a_wrong_amount_is_refused(argument: str, amount: Any) -> None:
    """The message names the argument and the value, and the price before it stays."""
    set_price("a:m", input_usd_per_mtok=1, output_usd_per_mtok=1)
    before = find_price("a:m")
    given_amounts = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 2, argument: amount}

    with pytest.raises(ConfigurationError) as caught:
        set_price("a:m", **given_amounts)

    assert str(caught.value).startswith(f"{argument} is {amount!r}: an amount of ")
    assert find_price("a:m") is before


@pytest.mark.parametrize("model", ["gpt-4o", "openai:", ":gpt-4o", ""])
def test_a_price_needs_a_provider_and_a_name(model: str) -> None:
    """A name that nobody could ask for is refused."""
    with pytest.raises(ConfigurationError, match=f'the model {model!r} has no .*write "provider:model"'):
        set_price(model, input_usd_per_mtok=1, output_usd_per_mtok=1)


def test_threads_see_whole_prices() -> None:
    """A price that is replaced while others look it up is either the old or the new one."""

    def set_in_turn(turn: int) -> None:
        set_price("a:m", input_usd_per_mtok=turn, output_usd_per_mtok=turn)

    def balance(_: int) -> Decimal:
        price = price_of("a:m")
        return price.bound(1, 0) - price.bound(0, 1)

    set_in_turn(0)
    with ThreadPoolExecutor(4) as pool:
        setting = pool.map(set_in_turn, range(500))
        balances = set(pool.map(balance, range(500)))
        list(setting)

    assert balances == {ZERO}


# Arithmetic


@given(amounts, amounts, maybe, maybe, usages, st.integers(0, 1000))
def test_a_set_price_is_bounded(
    for_input: Any, for_output: Any, for_cached: Any, for_request: Any, usage: TokenUsage, more: int
) -> None:
    """No usage costs more than the bound, even if cached input is dearer than other input."""
    set_price(
        "a:m",
        input_usd_per_mtok=for_input,
        output_usd_per_mtok=for_output,
        cached_input_usd_per_mtok=for_cached,
        request_usd=for_request,
    )
    price = price_of("a:m")

    cost = price.cost(usage, NOON)

    assert cost <= price.bound(usage.input_tokens, usage.output_tokens)
    assert cost <= price.bound(usage.input_tokens + more, usage.output_tokens + more)


@given(st.data(), amounts, amounts, maybe, st.integers(0, MILLION), st.integers(0, MILLION))
def test_the_affordable_tokens_are_the_most_of_which_the_bound_fits(
    data: st.DataObject, for_input: Any, for_output: Any, for_request: Any, input_tokens: int, output_tokens: int
) -> None:
    """With so many tokens the bound is within the amount, and with one more it is not."""
    set_price("a:m", input_usd_per_mtok=for_input, output_usd_per_mtok=for_output, request_usd=for_request)
    price = price_of(data.draw(st.sampled_from(["a:m", "google:gemini-2.5-pro", "openai:gpt-4o"])))
    exactly = price.bound(input_tokens, output_tokens)
    usd = data.draw(st.one_of(st.just(exactly), st.decimals(0, 1000, allow_nan=False, allow_infinity=False)))

    affordable = price.affordable_output_tokens(input_tokens, usd)

    if affordable is None:
        assert price.bound(input_tokens, 10**9) == price.bound(input_tokens, 0) <= usd
    elif affordable < 0:
        assert affordable == -1
        assert price.bound(input_tokens, 0) > usd
    else:
        assert price.bound(input_tokens, affordable) <= usd < price.bound(input_tokens, affordable + 1)
        assert usd != exactly or affordable == output_tokens


def test_ten_thousand_costs_add_up_to_the_last_digit() -> None:
    """The sum of costs is that of fractions, though it has more digits than decimals have by default."""
    for_input, for_output = Decimal("0.1234567890123456789012345"), Decimal("1234.567890123456789")
    set_price("a:m", input_usd_per_mtok=for_input, output_usd_per_mtok=for_output, request_usd=1e-9)
    price = price_of("a:m")
    exactly, total = Fraction(0), ZERO

    for turn in range(10_000):
        usage = TokenUsage(input_tokens=turn * 7919, output_tokens=turn * 104_729)
        total = add_usd(total, price.cost(usage, NOON))
        tokens = Fraction(for_input) * usage.input_tokens + Fraction(for_output) * usage.output_tokens
        exactly += tokens / MILLION + Fraction(1, 10**9)

    assert Fraction(total) == exactly


def test_a_time_without_a_zone_is_utc() -> None:
    """A time counts the same with its zone left away."""
    price = price_of("deepseek:deepseek-chat")
    usage = TokenUsage(input_tokens=1000, output_tokens=1000)
    hours = [datetime(2025, 3, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(24)]

    assert [price.cost(usage, at) for at in hours] == [price.cost(usage, at.replace(tzinfo=None)) for at in hours]


@pytest.mark.parametrize("field", [field.name for field in fields(TokenUsage)])
def test_a_negative_count_is_refused(field: str) -> None:
    """A count below zero would make a cost that is too low."""
    with pytest.raises(ValueError, match=f"0 or more.*{field}=-1"):
        TokenUsage(**{field: -1})


def test_a_bound_of_negative_counts_is_refused() -> None:
    """A bound below zero would make room under a limit."""
    price = price_of("openai:gpt-4o")

    with pytest.raises(ValueError, match="not -1"):
        price.bound(-1, 0)
    with pytest.raises(ValueError, match="not -2"):
        price.bound(0, -2)
    with pytest.raises(ValueError, match="not -3"):
        price.affordable_output_tokens(-3, Decimal(1))
