"""Values come back equal and of the same type, or are refused with their type, their place and the way out."""

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flujo import ConfigurationError, SerializationError, StepResult
from flujo.utils.codec import DEEPEST, Codec
from flujo.utils.declared_types import DeclaredTypes
from flujo.utils.sameness import same_value
from flujo.utils.serialization import (
    register_custom_deserializer,
    register_custom_serializer,
    reset_custom_serializer_registry,
    safe_deserialize,
    safe_serialize,
    serialize_to_json,
)
from tests.utils.corpus import (
    DECLARED,
    REFUSED,
    VALUES,
    Anything,
    Box,
    Color,
    Context,
    Dog,
    Grown,
    Image,
    Open,
    Owner,
    Plain,
    Shade,
    Undeclared,
)

_codec = Codec(DeclaredTypes(DECLARED))


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    yield
    reset_custom_serializer_registry()


@given(st.text(st.sampled_from("a\ud83d\ude00\x00\u00e9$\U0001f600"), max_size=12))
def test_any_text_comes_back_and_is_stored_in_little_more(text: str) -> None:
    """Halves of characters stay halves, alone or beside their other half, in values and in keys."""
    assert _codec.loads(_codec.dumps(text)) == text
    assert list(_codec.loads(_codec.dumps({text: 1}))) == [text]
    assert len(_codec.dumps(text)) <= 12 * len(text) + 20  # six characters for a half, and a part of its own for each


def _wrapped(value: Any) -> Iterator[Any]:
    yield value
    yield [value, {"key": (value,)}]
    yield Anything(value=value)
    yield Context(initial_prompt="", value={"a": [value]})
    yield StepResult("step", value)
    if _is_hashable(value):
        yield {value: 1}
        yield {value}


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
        return bool(value == copy.deepcopy(value))  # neither NaN nor what is found by its identity only
    except Exception:  # unhashable, in whatever way
        return False


def test_the_corpus_is_large() -> None:
    """At least 200 values are tried, each by itself and in every kind of surroundings."""
    assert len(VALUES) >= 200


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Equal, of the same type at every depth, wherever it stands: in outputs, in contexts, as a key."""
    for wrapped in _wrapped(value):
        text = _codec.dumps(wrapped)
        read = _codec.loads(text)

        assert same_value(wrapped, read), text
        assert _codec.dumps(read) == text


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_a_value_that_would_change_is_refused(value: Any) -> None:
    """Nothing is written of a value that would not come back."""
    for wrapped in _wrapped(value):
        with pytest.raises(SerializationError):
            _codec.dumps(wrapped)


def test_an_error_names_type_place_and_way_out() -> None:
    """Where the value stands is written as people write it."""
    output = {"items": [1, 2, 3, {"image": Image()}]}

    with pytest.raises(SerializationError) as caught:
        Codec(DeclaredTypes()).dumps(output, "output")

    assert str(caught.value) == (
        "output.items[3].image is a Image, which flujo cannot store; call register_custom_serializer(Image, ...) "
        "and register_custom_deserializer(Image, ...)"
    )


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"two words": [Image()]}, "x['two words'][0] is"),
        ({1: Image()}, "x[1] is"),
        ({Image(): 1}, "x key is"),
        ({Image()}, "x member is"),
        ((1, Image()), "x[1] is"),
        (Anything(value=(Image(),)), "x.value[0] is"),
        (Open.model_validate({"extra": Image()}), "x.extra is"),
        (Plain(Image()), "x.a is"),  # type: ignore[arg-type]  # a wrong value
        (StepResult("s", Image()), "x.output is"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_place_is_found_in_every_container(value: Any, place: str) -> None:
    """Fields, keys, members and items are told apart."""
    with pytest.raises(SerializationError) as caught:
        _codec.dumps(value, "x")

    assert str(caught.value).startswith(place)


def test_a_cycle_and_bottomless_nesting_are_refused() -> None:
    """What is as deep as allowed comes back, and one level more is refused in one short line."""
    deep: list[Any] = []
    for _ in range(DEEPEST):
        deep = [deep]
    cycle: list[Any] = []
    cycle.append(cycle)

    read = _codec.loads(_codec.dumps(deep))

    assert read == deep
    for value in ([deep], cycle, (deep,)):
        with pytest.raises(SerializationError, match="nested more than 200 levels deep") as caught:
            _codec.dumps(value)
        assert len(str(caught.value)) < 250


def test_what_is_written_is_ascii_and_has_no_nul() -> None:
    """Any store of text takes it."""
    text = _codec.dumps(list(VALUES))

    assert text.isascii()
    assert "\x00" not in text
    json.loads(text, parse_constant=pytest.fail)


def test_sets_are_written_in_one_order_whatever_the_hash_seed() -> None:
    """Two processes write the same value alike."""
    program = (
        "from flujo.utils.serialization import serialize_to_json\n"
        "print(serialize_to_json([{'b', 'a', 'c', 1, (1, 2)}, {'k': frozenset('xyz')}]))"
    )

    written = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(written) == 1


# Declared types


def test_only_declared_classes_are_read() -> None:
    """A model that nobody declared is named, and never comes back as a dict."""
    data = safe_serialize(Undeclared())

    with pytest.raises(
        SerializationError, match=r"the class Undeclared of tests\.utils\.corpus, which this program has"
    ):
        safe_deserialize(data)

    assert safe_deserialize(data, Undeclared) == Undeclared()


def test_a_declared_type_declares_what_it_is_made_of() -> None:
    """Fields, arguments, and subclasses of all of them may be read."""
    value = {"a": [Owner(pets=[Dog(tricks=["sit"])])], "b": [Owner()]}

    read = safe_deserialize(safe_serialize(value), dict[str, list[Owner]])

    assert read == value
    assert type(read["a"][0].pets[0]) is Dog


def test_naming_what_everything_derives_from_declares_nothing() -> None:
    """`BaseModel` and `Enum` as annotations do not open the door for every model and enum."""
    declared = DeclaredTypes([BaseModel, Enum, object, list[BaseModel], Any])

    assert Undeclared not in declared
    assert Shade not in declared


def test_a_class_with_the_name_of_another_is_not_taken_for_it() -> None:
    """Two classes of one name in one module are told apart when writing."""

    def make() -> type[BaseModel]:
        class Local(BaseModel):
            a: int = 1

        return Local

    first, second = make(), make()

    with pytest.raises(SerializationError, match="Local"):
        Codec(DeclaredTypes([first])).dumps(second())


def test_a_class_is_found_though_its_module_is_called_otherwise() -> None:
    """A file that is run and one that is imported have different names; two candidates are one too many."""

    def declared_in(*modules: str) -> Codec:
        return Codec(DeclaredTypes([type("Order", (BaseModel,), {"__module__": module}) for module in modules]))

    (cls,) = (type("Order", (BaseModel,), {"__module__": "__main__"}),)
    text = Codec(DeclaredTypes([cls])).dumps(cls())

    assert type(declared_in("shop").loads(text)).__module__ == "shop"
    with pytest.raises(SerializationError, match="the class Order of __main__"):
        declared_in("shop", "stock").loads(text)


def test_plain_json_is_validated_against_the_type() -> None:
    """What flujo did not write is read as pydantic reads it, and refused in one line if it does not fit."""
    assert safe_deserialize({"pets": [{"name": "Tom"}]}, Owner).pets[0].name == "Tom"
    with pytest.raises(SerializationError, match=r"does not fit its type: pets: Input should be a valid list"):
        safe_deserialize({"pets": 3}, Owner)


def test_a_value_that_fits_its_type_is_not_changed_by_it() -> None:
    """An integer where a float is declared stays an integer."""
    assert type(safe_deserialize(safe_serialize(1), float)) is int
    assert safe_deserialize(safe_serialize(Color.RED), Color) is Color.RED


def test_new_fields_get_their_defaults_and_lost_ones_are_an_error() -> None:
    """A class that changed since is read as far as nothing is lost."""

    def order(fields: dict[str, Any]) -> type[BaseModel]:
        return type("Order", (BaseModel,), {"__module__": __name__, "__qualname__": "Order", **fields})

    def declared(fields: dict[str, Any]) -> Codec:
        return Codec(DeclaredTypes([order(fields)]))

    old = order({"__annotations__": {"a": int}, "a": 1})
    text = Codec(DeclaredTypes([old])).dumps(old.model_validate({"a": 5}))

    grown = declared({"__annotations__": {"a": int, "b": int}, "b": 2}).loads(text)
    assert (grown.a, grown.b) == (5, 2)
    with pytest.raises(SerializationError, match="Order has no field 'a' any more"):
        declared({"__annotations__": {"b": int}, "b": 2}).loads(text)
    with pytest.raises(SerializationError, match="Order has a field 'b' now, which the stored value lacks"):
        declared({"__annotations__": {"a": int, "b": int}}).loads(text)


# Registered types


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


class Precise(Celsius):
    pass


def _degrees(celsius: Celsius) -> float:
    return celsius.degrees


def test_a_registered_type_comes_back() -> None:
    """Its functions are used wherever a value of it stands."""
    register_custom_serializer(Celsius, lambda celsius: {"degrees": celsius.degrees, "unit": ("C",)})
    register_custom_deserializer(Celsius, lambda data: Celsius(data["degrees"]))

    read = safe_deserialize(json.loads(serialize_to_json({"at": [Celsius(20.5)]})))

    assert type(read["at"][0]) is Celsius
    assert read["at"][0].degrees == 20.5


def test_a_subclass_of_a_registered_type_is_unknown() -> None:
    """Unless the deserializer takes the class, which then serves all subclasses."""
    register_custom_serializer(Celsius, _degrees)
    register_custom_deserializer(Celsius, Celsius)
    with pytest.raises(SerializationError, match="value is a Precise"):
        safe_serialize(Precise(1))

    register_custom_deserializer(Celsius, lambda data, cls: cls(data))

    read = safe_deserialize(safe_serialize([Precise(1), Celsius(2)]))
    assert [type(each) for each in read] == [Precise, Celsius]


def test_registration_wins_for_models_dataclasses_enums_and_standard_types() -> None:
    """What flujo could write itself is written as the program says."""
    register_custom_serializer(Undeclared, lambda model: "model")
    register_custom_deserializer(Undeclared, lambda data: Undeclared(a=len(data)))
    register_custom_serializer(Grown, lambda grown: grown.a)
    register_custom_deserializer(Grown, Grown)
    register_custom_serializer(Shade, lambda shade: shade.value * 10)
    register_custom_deserializer(Shade, lambda data: Shade(data // 10))
    register_custom_serializer(complex, str)
    register_custom_deserializer(complex, complex)

    read = safe_deserialize(safe_serialize([Undeclared(), Grown(3), Shade.DARK, 1j]))

    assert read == [Undeclared(a=5), Grown(3), Shade.DARK, 1j]


def test_a_type_that_cannot_be_read_back_is_not_stored() -> None:
    """A serializer alone is enough to write JSON for others, but not to store what has to come back."""
    register_custom_serializer(Celsius, _degrees)

    assert safe_serialize(Celsius(1))["v"] == 1
    with pytest.raises(SerializationError, match=r"call register_custom_deserializer\(Celsius, \.\.\.\)"):
        _codec.dumps(Celsius(1))


def test_what_was_registered_when_writing_has_to_be_registered_when_reading() -> None:
    """The error names the class and the call."""
    register_custom_serializer(Celsius, _degrees)
    register_custom_deserializer(Celsius, Celsius)
    data = safe_serialize(Celsius(1))
    reset_custom_serializer_registry()

    with pytest.raises(SerializationError, match=r"for which nothing is registered; .*\(Celsius, \.\.\.\)"):
        safe_deserialize(data)


@pytest.mark.parametrize("side", ["serializer", "deserializer"])
def test_an_error_in_a_registered_function_is_kept(side: str) -> None:
    """It is the cause of an error that names the type."""

    def fail(_value: Any) -> Any:
        raise ZeroDivisionError("mine")

    register_custom_serializer(Celsius, fail if side == "serializer" else _degrees)
    register_custom_deserializer(Celsius, fail)

    with pytest.raises(SerializationError, match=r"Celsius.* failed: ZeroDivisionError: mine") as caught:
        safe_deserialize(safe_serialize(Celsius(1)))

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("cls", [str, int, float, bool, list, dict, type(None)])
@pytest.mark.parametrize("register", [register_custom_serializer, register_custom_deserializer])
def test_the_types_of_json_cannot_be_registered(cls: type, register: Callable[[Any, Any], None]) -> None:
    """They are always written as they are."""
    with pytest.raises(ConfigurationError, match="a type that JSON has"):
        register(cls, repr)


def test_what_is_no_class_or_no_function_is_refused() -> None:
    """The message says what was given."""
    with pytest.raises(ConfigurationError, match=r"'Celsius' is no class"):
        register_custom_serializer("Celsius", repr)  # type: ignore[arg-type]  # a mistake
    with pytest.raises(ConfigurationError, match=r"cannot be called: 3"):
        register_custom_deserializer(Celsius, 3)  # type: ignore[call-overload]  # a mistake


def test_registering_from_many_threads_loses_nothing() -> None:
    """Every registration counts, while others write and read."""
    classes = [type(f"Kind{i}", (Celsius,), {}) for i in range(200)]

    def register(cls: type[Celsius]) -> None:
        register_custom_serializer(cls, _degrees)
        register_custom_deserializer(cls, cls)

    threads = [threading.Thread(target=register, args=(cls,)) for cls in classes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    read = safe_deserialize(safe_serialize([cls(1) for cls in classes]))
    assert [type(each) for each in read] == classes


# What flujo did not write

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$", "t", "v", "a", "extra", "private", "unset"]), inner, max_size=4)
        | st.fixed_dictionaries(
            {"$": st.sampled_from(["model", "data", "enum", "named", "custom", "tuple", "datetime", "zz"]), "v": inner},
            optional={
                "t": st.sampled_from(["os:system", "builtins:eval", "tests.utils.corpus:Owner", "subprocess:Popen"])
            },
        )
    ),
    max_leaves=10,
)


@given(_json)
def test_whatever_is_read_nothing_is_imported_or_called(data: Any) -> None:
    """Any JSON is read as a value or refused as flujo's own error; no module is loaded, and no class is built."""
    before = set(sys.modules)

    try:
        value = _codec.decode(data)
    except SerializationError:
        value = None

    assert set(sys.modules) == before
    assert not isinstance(value, subprocess.Popen)


@given(st.sampled_from([value for value in VALUES if not isinstance(value, str | int | float)]), st.data())
def test_a_damaged_value_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    """A character that is lost or changed gives another value or flujo's own error, and nothing else."""
    text = _codec.dumps(value)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from(["", "x", "1", '"', "{", "]", ":"])) + text[at + 1 :]

    try:
        read = _codec.loads(damaged)
    except SerializationError:
        return

    assert _codec.dumps(read)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 5000, '{"$":"tuple"}', '{"$":[],"v":1}', '{"$":"int","v":3}', '{"$":"set","v":[[1]]}', "nope"],
    ids=lambda text: text[:15],
)
def test_what_is_no_value_is_refused(text: str) -> None:
    """The error is flujo's own."""
    with pytest.raises(SerializationError, match=r"not JSON that flujo wrote|not written by flujo"):
        _codec.loads(text)


def test_generic_models_keep_their_parameters() -> None:
    """`Box[int]` comes back as `Box[int]`."""
    read = safe_deserialize(safe_serialize(Box[int](content=1)), Box[int])

    assert type(read) is Box[int]
