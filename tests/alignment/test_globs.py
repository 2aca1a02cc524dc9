"""Patterns of names mean what `fnmatch` takes them for, and brackets beside."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.globs import glob_test, matching

TEXTS = st.text("ab[]!-*?.", max_size=12)


@given(TEXTS, TEXTS)
def test_a_pattern_is_read_both_ways(pattern: str, name: str) -> None:
    ways = pattern, pattern.replace("[", "[[]")
    wanted = name == pattern or any(fnmatchcase(name, way) for way in ways)
    assert glob_test(pattern)(name) == wanted


@pytest.mark.parametrize("pattern", ["[" * 100_000, "[" * 100_000 + "]", "[a]" * 30_000])
@pytest.mark.slow("reads patterns of a hundred thousand letters")
def test_a_pattern_without_end_is_read_at_once(pattern: str) -> None:
    assert matching([pattern], ["a", pattern]) == [pattern]
