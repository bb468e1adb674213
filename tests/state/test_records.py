"""The records that stores keep: how the paths of steps sort."""

from flujo.state.records import running_order


def test_numbers_in_paths_sort_as_numbers() -> None:
    """The tenth item of a map waits after the second, and a step before what runs inside it."""
    paths = [("map", "item:10", "ask"), ("map", "item:2", "ask"), ("map", "item:2"), ("a:b",)]
    assert sorted(paths, key=running_order) == [
        ("a:b",),
        ("map", "item:2"),
        ("map", "item:2", "ask"),
        ("map", "item:10", "ask"),
    ]


def test_digits_of_other_scripts_are_text() -> None:
    """Only flujo writes numbers into paths, and it writes them in ASCII."""
    assert running_order(("step:\u0662",)) == [("step:\u0662", 0)]
