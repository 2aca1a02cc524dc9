"""Decisions that are not in force, shared among the alignments of a session."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import Earlier

_ITEMS = st.dictionaries(
    st.tuples(st.integers(0, 40), st.integers(-4, 4)), st.integers(0, 9), max_size=30
)


@given(st.lists(_ITEMS, max_size=12))
def test_they_are_as_a_dict_copied_for_each_edit_would_be(
    edits: list[dict[tuple[int, int], int]],
) -> None:
    copied, shared = [dict[tuple[int, int], int]()], [Earlier({})]
    for items in edits:
        copied.append({**copied[-1], **items})
        shared.append(shared[-1].updated(items))
    for one, other in zip(copied, shared, strict=True):
        assert dict(other.items()) == one
        assert len(other) == len(one)
        assert all(key in other for key in one)
        assert (99, 0) not in other
