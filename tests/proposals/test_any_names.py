"""Large models under names of any kind: what is said of them, and the work it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from cProfile import Profile
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.task import Task
from s2p_tui.alignment.transform import Shape, keys_of
from s2p_tui.errors import CancelledError
from s2p_tui.proposals.matcher import forget_names, match
from s2p_tui.proposals.matcher.align import _WINDOW, _common
from tests.benchmarks.alignment_names import NAMES, SHAPES, Names, Sides

_MANY = 700
"""More than are compared two by two."""
_SHAPES = [pytest.param(shapes, id=name) for name, shapes in SHAPES.items()]
_KINDS = pytest.mark.parametrize("names", NAMES, ids=lambda names: names.what)


def matched(sides: Sides, task: Task | None = None) -> Evidence:
    entries, leaves, _ = sides
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries))
    skeleton = Skeleton(tuple(Leaf(path, shape, "float32") for path, shape in leaves))
    return match(state_dict, skeleton, task)


def right(found: Evidence, truth: Sequence[str]) -> list[bool]:
    return [
        one.source is not None and keys_of(one.source) == (key,)
        for one, key in zip(found.suggestions, truth, strict=True)
    ]


@_KINDS
@pytest.mark.parametrize("shapes", _SHAPES)
@pytest.mark.slow("matches hundreds of models")
def test_all_is_found_that_names_tell_and_nothing_else_is_certain(
    names: Names, shapes: Sequence[Shape]
) -> None:
    sides = names.make(_MANY, shapes)
    found = matched(sides)
    is_right = right(found, sides[2])
    certain = [one.certain for one in found.suggestions]
    assert all(is_right) or not names.knowable
    assert not any(sure and not so for sure, so in zip(certain, is_right, strict=True))


@_KINDS
def test_every_entry_is_used_once(names: Names) -> None:
    sides = names.make(_MANY, SHAPES["four shapes"])
    found = matched(sides)
    used = [key for one in found.suggestions if one.source for key in keys_of(one.source)]
    assert sorted([*used, *found.left_over]) == sorted(key for key, _ in sides[0])


@pytest.mark.parametrize("missing", [1, 50])
@_KINDS
@pytest.mark.slow("matches hundreds of models")
def test_an_entry_that_is_missing_leaves_nothing_wrong_and_certain(
    names: Names, missing: int
) -> None:
    entries, leaves, truth = names.make(_MANY, SHAPES["one shape"])
    gone = {key for key, _ in entries[5 :: _MANY // missing]}
    found = matched(([entry for entry in entries if entry[0] not in gone], leaves, truth))
    for one, is_right, key in zip(found.suggestions, right(found, truth), truth, strict=True):
        assert is_right or not one.certain, (key, one)


def _calls(work: Callable[[], object]) -> int:
    forget_names()
    counter = Profile()
    counter.runcall(work)
    return sum(entry.callcount for entry in counter.getstats())


@_KINDS
@pytest.mark.parametrize("shapes", _SHAPES)
@pytest.mark.slow("counts the steps of matching thousands of names")
def test_work_grows_with_the_number_of_names(names: Names, shapes: Sequence[Shape]) -> None:
    few, many = names.make(1000, shapes), names.make(3000, shapes)
    # Three times as many names to the power 1.2 are 3.7 times the work.
    assert _calls(lambda: matched(many)) < 3.7 * _calls(lambda: matched(few))


@_KINDS
def test_progress_only_grows(names: Names) -> None:
    seen: list[float] = []

    class Watched(Task):
        def check(self) -> None:
            seen.append(self.share)
            super().check()

    matched(names.make(_MANY, SHAPES["one shape"]), Watched())
    assert seen == sorted(seen)
    assert 0 <= seen[0] < 0.3
    assert 0.9 < seen[-1] <= 1


@_KINDS
@pytest.mark.parametrize("after", [0, 3, 30])
def test_it_ends_when_it_is_cancelled(names: Names, after: int) -> None:
    checks = 0

    class Cancelled(Task):
        def check(self) -> None:
            nonlocal checks
            checks += 1
            if checks > after:
                self.cancel()
            super().check()

    with pytest.raises(CancelledError):
        matched(names.make(_MANY, SHAPES["four shapes"]), Cancelled())
    assert checks == after + 1


@given(st.lists(st.integers(1, 3), max_size=40), st.lists(st.integers(1, 3), max_size=40))
def test_a_sequence_in_common_is_in_order_on_both_sides(
    first: list[int], second: list[int]
) -> None:
    pairs = sorted(_common(first, second, lambda: None))
    assert all(first[i] == second[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))


@pytest.mark.parametrize("lost", [1, 7, 1000])
def test_long_sequences_have_in_common_what_is_left_of_one(lost: int) -> None:
    first = [n % 10_007 for n in range(4 * _WINDOW)]
    second = [size for n, size in enumerate(first) if n % lost != lost // 2 or lost == 1]
    pairs = list(_common(first, second, lambda: None))
    assert len(pairs) == len(second)
    assert all(first[i] == second[j] for i, j in pairs)
