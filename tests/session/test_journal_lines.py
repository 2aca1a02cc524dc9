"""Steps written down and made again give the same alignment, whole or torn anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.edits import (
    AcceptUnused,
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Several,
    Swap,
    Trust,
)
from s2p_tui.alignment.history import History
from s2p_tui.alignment.mapping_file import End
from s2p_tui.alignment.numbering import Numbering
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Permute, Stack, Take
from s2p_tui.errors import InputError, OtherFilesError
from s2p_tui.session.journal_lines import (
    Header,
    Replayed,
    Step,
    compacted,
    edit_from_json,
    edit_to_json,
    framed,
    head,
    pair_digest,
    replay,
    step_line,
)
from tests.helpers.exprs import Case, cases
from tests.helpers.sessions import lettered

KEYS = "abcdefgh"
START = lettered("ab=c#-de_", "fgh")
ROWS = len(START.rows)
ENTRIES = StateDict(tuple(Entry(key, (2, 3), "float32") for key in KEYS))
LEAVES = Skeleton(tuple(Leaf(f".l{n}", (2, 3), "float32") for n in range(ROWS)))
ENDS = End("model.pt", 1, ENTRIES.digest, 8), End("sk.eqx", 2, LEAVES.digest, 9)
PAIR = pair_digest(*ENDS, LEAVES)
HEADER = Header(*ENDS, PAIR, (), "1.0")

places = st.integers(0, ROWS - 1)
keys = st.sampled_from(KEYS)
sources: st.SearchStrategy[Expr] = st.one_of(
    st.builds(Take, keys),
    st.builds(lambda key: Permute(Take(key), (1, 0)), keys),
    st.lists(keys, min_size=1, max_size=3).map(lambda some: Stack(tuple(map(Take, some)), 0)),
)
rows = st.one_of(
    st.builds(
        Row,
        sources,
        by=st.sampled_from(["user", "matcher", "rule"]),
        why=st.sampled_from(["", "same name", "é\n\ud800"]),
        trusted=st.booleans(),
        fixed=st.booleans(),
    ),
    st.just(Row()),
    st.just(Row(gap=True, by="user")),
)
# Twice the same object: an edit may not tell it from an equal one, as a file cannot.
same_rows = st.tuples(rows, st.lists(places, min_size=1, max_size=3, unique=True)).map(
    lambda drawn: SetRows(tuple((place, drawn[0]) for place in drawn[1]))
)
single: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Swap, places, places),
    st.builds(MoveTo, places, places),
    st.builds(MoveBlock, places, places, st.integers(-9, 9)),
    st.builds(OpenGap, places),
    st.builds(CloseGap, places),
    st.builds(SendToBench, st.lists(places, max_size=3).map(tuple)),
    st.builds(Trust, st.lists(places, max_size=3).map(tuple), st.booleans()),
    st.builds(AcceptUnused, st.lists(keys, max_size=3).map(tuple), st.booleans()),
    same_rows,
    st.lists(st.tuples(places, rows), max_size=3).map(lambda some: SetRows(tuple(some))),
)
steps = st.lists(
    st.one_of(
        single,
        st.lists(single, max_size=3).map(lambda some: Several(tuple(some))),
        st.sampled_from(["undo", "redo", "place"]),
    ),
    max_size=15,
)


@dataclass
class Written:
    """A journal, where its lines end, and the state after each."""

    content: bytes
    ends: list[int]
    states: list[tuple[Alignment, tuple[Edit, ...], tuple[Edit, ...]]]


def write(todo: list[Edit | str], start: Alignment = START) -> Written:
    history, alignment = History(), start
    content, chain = head(HEADER, start)
    made = Written(content, [len(content)], [(alignment, (), ())])
    for drawn in todo:
        step: Step
        if drawn == "place":
            if not alignment.bench:
                continue
            step = PlaceFromBench(alignment.bench[-1], 1, shift=len(alignment.bench) % 2 == 0)
        else:
            step = drawn  # pyright: ignore[reportAssignmentType]
        before = alignment
        if step == "undo":
            alignment, changed = history.undo(before)
        elif step == "redo":
            alignment, changed = history.redo(before)
        else:
            alignment, changed = history.make(before, step)
        if alignment is before:
            continue
        line, chain = step_line(step, 1000 + len(made.ends), alignment, changed, chain)
        made.content += line
        made.ends.append(len(made.content))
        made.states.append((alignment, history.edits, history.undone))
    return made


def again(content: bytes, pair: str = PAIR) -> Replayed | None:
    return replay(content, "the journal", pair, ENTRIES, LEAVES)


def state_of(found: Replayed) -> tuple[Alignment, tuple[Edit, ...], tuple[Edit, ...]]:
    return found.alignment, found.history.edits, found.history.undone


@settings(max_examples=150, deadline=None)
@given(steps, st.data())
@pytest.mark.slow("damages many journals")
def test_any_steps_torn_anywhere_come_to_the_state_of_then(
    todo: list[Edit | str], data: st.DataObject
) -> None:
    written = write(todo)
    cut = data.draw(st.integers(0, len(written.content)))
    whole = sum(end <= cut for end in written.ends)
    found = again(written.content[:cut])
    if whole < 2:
        assert found is None
    else:
        assert found is not None
        assert state_of(found) == written.states[whole - 1]
        assert (found.steps, found.last) == (whole - 1, 1000 + whole - 1)
        assert found.size == written.ends[whole - 1]


@settings(max_examples=100, deadline=None)
@given(steps)
def test_what_was_replayed_can_be_redone_and_undone(todo: list[Edit | str]) -> None:
    written = write(todo)
    found = again(written.content)
    if found is None:
        return
    alignment, history = found.alignment, found.history
    while history.undone:
        alignment, _ = history.redo(alignment)
    while len(history):
        alignment, _ = history.undo(alignment)
    assert alignment == START


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(1, 6))
def test_compacted_it_comes_to_the_same_with_fewer_edits_to_undo(
    todo: list[Edit | str], keep: int
) -> None:
    found = again(write(todo).content)
    if found is None:
        return
    shorter = again(compacted(found, keep))
    assert shorter is not None
    assert shorter.alignment == found.alignment
    assert shorter.history.edits == found.history.edits[-keep:]
    assert shorter.history.undone == found.history.undone
    assert shorter.edits == found.edits
    assert shorter.last == found.last


@settings(max_examples=150, deadline=None)
@given(steps, st.data())
@pytest.mark.slow("damages many journals")
def test_a_changed_byte_never_makes_another_state(
    todo: list[Edit | str], data: st.DataObject
) -> None:
    written = write(todo)
    at = data.draw(st.integers(0, len(written.content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != written.content[at]))
    damaged = written.content[:at] + bytes([other]) + written.content[at + 1 :]
    try:
        found = again(damaged)
    except InputError:
        pass
    else:
        # Only where the end of the last line was hit, so that it looks torn off.
        assert at == len(written.content) - 1
        assert found is None or state_of(found) == written.states[-2]


TODO: list[Edit | str] = [Swap(0, 1), OpenGap(3), "undo", Trust((0,))]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_missing_or_doubled_line_is_refused(number: int) -> None:
    lines = write(TODO).content.splitlines(keepends=True)
    for other in ([*lines[:number], *lines[number + 1 :]], [*lines[: number + 1], *lines[number:]]):
        with pytest.raises(InputError, match="checksum"):
            again(b"".join(other))


def test_another_pair_is_refused() -> None:
    with pytest.raises(OtherFilesError, match=r"made for other files: model\.pt"):
        again(write(TODO).content, "0" * 64)


def test_a_start_of_other_rows_is_refused() -> None:
    for start in (
        Alignment.of(START.rows[:-1], START.bench),
        Alignment.of(START.rows, (*START.bench, "a")),
        Alignment.of(START.rows, START.bench[1:]),
        Alignment.of((Row(Take("zz")), *START.rows[1:]), (*START.bench, "a")),
    ):
        with pytest.raises(InputError, match="not those of these files"):
            again(write([Swap(0, 3)], start).content)


def test_a_step_that_makes_something_else_is_refused() -> None:
    content, chain = head(HEADER, START)
    line, _ = step_line(Swap(0, 1), 5, START, range(2), chain)
    with pytest.raises(InputError, match="step 1 makes something else than it did"):
        again(content + line)


@pytest.mark.parametrize(
    "do",
    [
        ["Swap", 0], ["Swap", -1, 2], ["Swap", "0", 1], ["Swap", 0, 99], ["Fly", 1], [], 3, None,
        ["Trust", [0], 1], ["SetRows", [0], {"rows": [[0, 0, 9, None]], "why": [""]}],
        ["SetRows", [0, 1], {"rows": [], "why": []}], ["PlaceFromBench", "a", 0, True],
        ["SetRows", [0], {"rows": [[0, 0, 1, "a"]], "why": [""]}],
        ["SetRows", [0], {"rows": [[0, 1, 0, "a"]], "why": [""]}],
        ["SetRows", [0], {"rows": [[0, 0, "a"]], "why": [""]}],
    ],
)  # fmt: skip
def test_what_is_no_step_is_refused(do: object) -> None:
    content, chain = head(HEADER, START)
    line, _ = framed({"at": 1, "do": do, "made": 0}, chain)
    with pytest.raises(InputError, match="cannot be used"):
        again(content + line)


def test_layer_classes_and_their_settings_make_another_pair() -> None:
    leaf = LEAVES[0]
    others = [
        structs.replace(leaf, owner="equinox.nn.BatchNorm"),
        structs.replace(leaf, config={"mode": "ema"}),
        structs.replace(leaf, config={"mode": "batch"}),
        structs.replace(leaf, has_value=False),
        structs.replace(leaf, kind="scalar"),
    ]
    found = {pair_digest(*ENDS, Skeleton((other, *LEAVES.leaves[1:]))) for other in others}
    assert len(found | {PAIR}) == 6


@settings(max_examples=100, deadline=None)
@given(cases())
def test_any_transform_survives(case: Case) -> None:
    edit = SetRows(((3, Row(case.expr, by="claude", why="because")),))
    node = framed({"do": edit_to_json(edit)}, 0)[0].split(b" ", 1)[1]
    assert edit_from_json(json.loads(node)["do"], Numbering()) == edit
