"""Parts of entries that no row takes."""

from __future__ import annotations

from s2p_tui.alignment.alignment import Row, Rows
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Concat, Expr, Permute, Split, Take
from s2p_tui.conversion.report import parts_unused

ENTRIES = StateDict((Entry("qkv", (12, 4), "float32"), Entry("w", (4,), "float32")))


def left(*sources: Expr) -> dict[str, str]:
    return parts_unused(Rows.of(map(Row, sources)), ENTRIES)


def part(start: int, stop: int, axis: int = 0) -> Expr:
    return Split(Take("qkv"), axis, start, stop)


def test_what_no_row_takes_is_named() -> None:
    assert left(part(0, 4), Permute(part(8, 12), (1, 0))) == {"qkv": "4:8 of axis 0"}
    assert left(part(4, 6)) == {"qkv": "0:4 and 6:12 of axis 0"}
    assert left(part(0, 1, axis=1)) == {"qkv": "1:4 of axis 1"}


def test_nothing_is_left_where_parts_make_the_whole_or_a_row_takes_it() -> None:
    assert left(part(4, 12), part(0, 5)) == {}
    assert left(part(0, 4), Take("qkv")) == {}
    assert left(Concat((part(0, 4), part(4, 12)), 0), Take("w")) == {}
