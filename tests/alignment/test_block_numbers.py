from __future__ import annotations

import pytest

from s2p_tui.alignment.block_numbers import by_number


@pytest.mark.parametrize(
    ("keys", "ordered"),
    [
        ("a.0 a.1 a.10 a.2", "a.0 a.1 a.2 a.10"),
        ("b2.w1 b1.w2 b1.w1", "b1.w1 b1.w2 b2.w1"),
        ("v k q", "v k q"),
        ("a.1 a.x", "a.1 a.x"),
        ("a.2.w a.1.v", "a.2.w a.1.v"),
        ("only", "only"),
    ],
)
def test_keys_that_differ_by_number_are_sorted_by_it(keys: str, ordered: str) -> None:
    assert by_number(keys.split()) == tuple(ordered.split())
