from __future__ import annotations

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.edits import OpenGap, SendToBench, Swap
from s2p_tui.alignment.history import History
from s2p_tui.alignment.transform import Take
from tests.helpers.sessions import lettered, letters


def test_undo_and_redo_walk_through_the_edits() -> None:
    history, alignment = History(), lettered("abc")
    first, _ = history.make(alignment, Swap(0, 1))
    second, _ = history.make(first, OpenGap(0))
    assert letters(second) == ("-ba", "c")
    assert history.edits == (Swap(0, 1), OpenGap(0))
    back, changed = history.undo(second)
    assert (back, changed) == (first, range(3))
    back, changed = history.undo(back)
    assert (back, changed) == (alignment, range(2))
    assert len(history) == 0
    again, _ = history.redo(back)
    again, changed = history.redo(again)
    assert (again, changed) == (second, range(3))
    assert history.edits == (Swap(0, 1), OpenGap(0))


def test_nothing_to_undo_or_redo() -> None:
    history, alignment = History(), lettered("ab")
    assert history.undo(alignment) == (alignment, range(0))
    assert history.redo(alignment) == (alignment, range(0))


def test_an_edit_without_effect_is_no_step_and_keeps_what_can_be_redone() -> None:
    history, alignment = History(), lettered("ab")
    swapped, _ = history.make(alignment, Swap(0, 1))
    back, _ = history.undo(swapped)
    assert history.make(back, Swap(1, 1)) == (back, range(0))
    assert len(history) == 0
    assert history.redo(back)[0] == swapped


def test_a_new_edit_forgets_what_was_undone() -> None:
    history, alignment = History(), lettered("abc")
    swapped, _ = history.make(alignment, Swap(0, 1))
    back, _ = history.undo(swapped)
    other, _ = history.make(back, Swap(1, 2))
    assert history.redo(other) == (other, range(0))
    assert letters(history.undo(other)[0]) == ("abc", "")


def test_only_the_rows_between_the_first_and_last_change_are_reported() -> None:
    history = History()
    alignment = Alignment.of(tuple(Row(Take(str(n))) for n in range(1000)))
    _, changed = history.make(alignment, Swap(300, 302))
    assert changed == range(300, 303)


def test_an_edit_of_the_bench_alone_can_be_undone() -> None:
    history, alignment = History(), lettered("ab", "xy")
    sent, changed = history.make(alignment, SendToBench((1,)))
    assert (letters(sent), changed) == (("a_", "xyb"), range(1, 2))
    assert history.undo(sent)[0] == alignment
