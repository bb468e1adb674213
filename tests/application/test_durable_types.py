"""What a durable run declares is checked before its first step, and what it gives is checked when it is stored."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Protocol, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict, EmailStr, Field, PositiveInt, SecretStr

from flujo import (
    AgentProcessors,
    Flujo,
    InMemoryBackend,
    PipelineContext,
    SerializationError,
    Step,
)
from flujo.domain.pipeline import BaseStep
from flujo.testing import StubAgent
from flujo.utils.serialization import (
    register_custom_deserializer,
    register_custom_serializer,
    reset_custom_serializer_registry,
)


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Forget what a test registers."""
    yield
    reset_custom_serializer_registry()


class Image:
    """A class that flujo does not know."""

    def __init__(self, pixels: str = "") -> None:
        self.pixels = pixels


class _Photo(Image):
    """One that is known if `Image` is registered for its subclasses."""


class _Album(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    pictures: list[Image]
    next: "_Album | None" = None


@dataclass
class _Page:
    album: _Album


class _Held(TypedDict):
    image: Image


class _Pair(NamedTuple):
    left: Image
    right: int


def _giving(declared: Any, agent: StubAgent | None = None, **options: Any) -> Step[Any, Any]:
    """Return a step that declares what it gives."""
    stub = agent or StubAgent(["never"])

    async def give(data: Any) -> Any:
        return await stub.run(data)

    give.__annotations__["return"] = declared
    return Step("paint", give, **options)


_HINT = "call register_custom_serializer(Image, ...) and register_custom_deserializer(Image, ...)"


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (Image, "Image"),
        (list[Image], "list[Image]"),
        (dict[str, list[Image]], "dict[str, list[Image]]"),
        (tuple[int, Image], "tuple[int, Image]"),
        (Annotated[Image, "big"], "Image"),
        (NewType("Thumbnail", Image), "Thumbnail"),
        (Sequence[Image], "Sequence[Image]"),
        (_Album, "_Album"),
        (_Page, "_Page"),
        (_Held, "_Held"),
        (_Pair, "_Pair"),
        (list[_Album | Image], "list[_Album | Image]"),
    ],
)
async def test_a_declared_type_that_can_never_be_stored_is_refused_before_the_first_step(
    declared: Any, name: str
) -> None:
    """The error names the step, the type and the calls that register it, wherever the class is; nothing is spent."""
    first, backend = StubAgent(["x"]), InMemoryBackend()
    runner: Flujo[Any, Any] = Flujo(Step("first", first) >> _giving(declared), state_backend=backend)

    with pytest.raises(SerializationError) as raised:
        await runner.run_async("x", run_id="r")

    assert str(raised.value) == f"step 'paint' gives {name}, but flujo cannot store Image; {_HINT}"
    assert (first.call_count, raised.value.result) == (0, None)


class _Shape(Protocol):
    sides: int


class _Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    "declared",
    [
        *(Any, object, None, int, str, Path, datetime, Decimal, SecretStr, EmailStr, PositiveInt, _Colour, _Shape),
        *(Image | None, Literal["x"], Mapping[str, int], list, tuple[int, ...], ipaddress.IPv4Address, BaseModel),
        *(dict[str, Any], "Undefined", type(None), frozenset[bytes]),
    ],
)
async def test_a_declared_type_that_may_be_stored_passes(declared: Any) -> None:
    """Only what is sure is refused beforehand."""
    result = await Flujo(_giving(declared, StubAgent([None])), state_backend=InMemoryBackend()).run_async("x")

    assert result.success


def _nests(step: Step[Any, Any]) -> dict[str, BaseStep[Any, Any]]:
    return {
        "loop": Step.loop_until("outer", step, lambda _o, _c: True),
        "parallel": Step.parallel("outer", {"a": step}),
        "fallback": Step("outer", StubAgent(["x"])).fallback(step),
        "sub-pipeline": Flujo(step).as_step("outer"),
        "map": Step.map_over("outer", step),
        "cached": Step.cached(step),
    }


@pytest.mark.parametrize("nest", ["loop", "parallel", "fallback", "sub-pipeline", "map", "cached"])
async def test_inner_steps_are_checked_as_well(nest: str) -> None:
    """At every depth, fallbacks included, and named."""
    with pytest.raises(SerializationError, match="step 'paint' gives Image"):
        await Flujo(_nests(_giving(Image))[nest], state_backend=InMemoryBackend()).run_async("x")


class _Gallery(PipelineContext):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    images: list[Image] = Field(default_factory=list[Image])


async def test_the_context_and_the_questions_are_checked_as_well() -> None:
    """The error names the field, or the step that asks."""

    async def fail(runner: Flujo[Any, Any]) -> str:
        with pytest.raises(SerializationError) as raised:
            await runner.run_async("x")
        return str(raised.value).split(";")[0]

    step: Step[Any, Any] = Step("first", StubAgent(["x"] * 3))
    backend = InMemoryBackend()
    inner = Flujo(step, context_model=_Gallery).as_step("inner")
    ask = Step.human_in_the_loop("ask", input_schema=_Album)

    assert await fail(Flujo(step, context_model=_Gallery, state_backend=backend)) == (
        "the context has the field 'images' of the type list[Image], but flujo cannot store Image"
    )
    assert await fail(Flujo(inner, state_backend=backend)) == (
        "the context of step 'inner' has the field 'images' of the type list[Image], but flujo cannot store Image"
    )
    assert await fail(Flujo(ask, state_backend=backend)) == ("step 'ask' gives _Album, but flujo cannot store Image")


async def test_a_registered_type_passes_and_comes_back() -> None:
    """Registration takes effect on a runner that has refused before, and covers what it says it covers."""
    agent = StubAgent([[_Photo("x")]])
    runner = Flujo(_giving(list[_Photo], agent), state_backend=InMemoryBackend())
    with pytest.raises(SerializationError, match="cannot store _Photo"):
        await runner.run_async("x", run_id="r")

    register_custom_serializer(Image, lambda image: image.pixels)
    register_custom_deserializer(Image, lambda pixels, cls: cls(pixels))
    await runner.run_async("x", run_id="r")
    result: Any = await runner.run_async("x", run_id="r")

    (photo,) = result.output
    assert (type(photo), photo.pixels, agent.call_count) == (_Photo, "x", 1)


async def test_a_base_passes_if_a_subclass_is_registered() -> None:
    """The values may be of that subclass."""
    register_custom_serializer(_Photo, lambda photo: photo.pixels)
    register_custom_deserializer(_Photo, _Photo)

    result: Any = await Flujo(_giving(Image, StubAgent([_Photo("x")])), state_backend=InMemoryBackend()).run_async("x")

    assert result.output.pixels == "x"


async def test_an_output_that_a_processor_makes_is_not_judged_by_its_agent() -> None:
    """What is stored is what the processor gives."""

    class Describe:
        async def process(self, data: Any, context: Any) -> Any:
            return data.pixels

    step = _giving(Image, StubAgent([Image("x")]), processors=AgentProcessors(output_processors=[Describe()]))

    assert (await Flujo(step, state_backend=InMemoryBackend()).run_async("x")).output == "x"


async def test_without_a_store_nothing_is_checked() -> None:
    """Values that never leave the process may be of any type."""
    assert (await Flujo(_giving(Image, StubAgent([Image()]))).run_async("x")).success


async def test_an_undeclared_output_is_refused_when_it_is_stored() -> None:
    """Where it stands is named, and what was paid is in the error's result."""
    step = Step("paint", StubAgent([{"items": [1, Image()]}]))

    with pytest.raises(SerializationError, match=r"output\.items\[1\] is a Image") as raised:
        await Flujo(step, state_backend=InMemoryBackend()).run_async("x")

    assert raised.value.result is not None
