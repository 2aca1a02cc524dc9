"""The matcher comes to an end, and soon, whatever names and shapes a file has."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.block_numbers import by_number
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from tests.fuzz.trial import limited_time
from tests.helpers.sessions import make_session

ODD = {
    "a digit that is no number": "layers.²",
    "a number of thousands of digits": "layers." + "9" * 5000,
    "thousands of steps": "a.b." * 20_000 + "w",
    "thousands of numbered steps": "1." * 3000 + "w",
    "one endless word": "x" * 1_000_000,
    "one endless line": "_" * 100_000,
    "words and numbers": "a9" * 50_000,
    "other digits": "l.٣",
    "no text": "",
    "dots": "...",
    "half a character": "\ud800.w",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_names(case: str) -> None:
    names = [ODD[case], ODD[case] + "2", "layer.weight"]
    with limited_time():
        session = make_session(
            [Entry(name, (3,), "float32") for name in names],
            [Leaf(f".{name}", (3,), "float32") for name in names],
            arrange="auto",
        )
        assert len(session.alignment.rows) == 3


def test_endless_names_that_differ_stay_apart() -> None:
    names = ["x" * 500 + middle + "y" * 500 for middle in "abc"]
    names += ["a." * 100 + middle + ".b" * 100 for middle in "abc"]
    session = make_session(
        [Entry(name, (3,), "float32") for name in reversed(names)],
        [Leaf(f".{name}", (3,), "float32") for name in names],
        arrange="auto",
    )
    assert [row.keys for row in session.alignment.rows] == [(name,) for name in names]


def test_numbers_of_any_length_are_in_order() -> None:
    keys = ["l." + digits for digits in ("10", "9" * 5000, "2", "1" + "0" * 5000, "007")]
    expected = ["2", "007", "10", "9" * 5000, "1" + "0" * 5000]
    assert list(by_number(keys)) == ["l." + digits for digits in expected]


def test_modules_alike_of_which_no_tensor_is() -> None:
    shapes = {"a.count": (3, 4), "a.weight": (), "b.weight": (3, 4), "b.bias": (3,)}
    kinds = {"a.weight": "int64", "b.bias": "bfloat16"}
    leaves = [(".a.count", ()), (".a.weight", (3, 4)), (".b.bias", (3,)), (".b.weight", (3, 4))]
    with limited_time():
        session = make_session(
            [Entry(key, shape, "float32") for key, shape in shapes.items() if key not in kinds]
            + [Entry(key, shapes[key], "int64") for key in kinds],
            [Leaf(path, shape, "int64" if not shape else "float32") for path, shape in leaves],
            arrange="auto",
        )
    assert len(session.alignment.rows) == 4
