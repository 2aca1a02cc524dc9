"""Groups of names, and the ids that refer to their members."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.proposals.claude.answer import WrongAnswerError, resolve, shared_out
from s2p_tui.proposals.claude.listing import Line, entry_lines, grouped

names = st.lists(
    st.lists(st.sampled_from(["a", "b", "h", "0", "1", "2", "7", "h_3", "x0y", "01", "{0}"]))
    .filter(bool)
    .map(".".join),
    unique=True,
    max_size=30,
)


def lines(*keys: str, shape: tuple[int, ...] = (2,)) -> dict[str, Line]:
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key in keys))
    return {line.id: line for line in entry_lines(state_dict, keys)}


@given(names, st.data())
@pytest.mark.slow("asks a server on this machine")
def test_every_item_is_in_one_group_and_has_a_reference(
    keys: list[str], data: st.DataObject
) -> None:
    shapes = [(data.draw(st.integers(1, 2)),) for _ in keys]
    state_dict = StateDict(tuple(Entry(k, s, "float32") for k, s in zip(keys, shapes, strict=True)))
    listed = {line.id: line for line in entry_lines(state_dict, keys)}
    items = [item for line in listed.values() for item in line.group.items]
    assert sorted(items) == list(range(len(keys)))
    for line in listed.values():
        for number, item in enumerate(line.group.items):
            assert resolve(line.reference(number), "E", listed).items == (item,)
            assert state_dict.entries[item].shape == line.group.kind.shape
        assert resolve(line.id, "E", listed).items == line.group.items


def names_of(*keys: str) -> list[str]:
    return [group.name for group in grouped((n, key, 0) for n, key in enumerate(keys))]


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (["h.0.w", "h.1.w", "h.2.w"], ["h.{0..2}.w"]),
        (["h.0.w", "h.2.w", "h.3.w"], ["h.{0,2..3}.w"]),
        (["fc1.w", "fc2.w"], ["fc1.w", "fc2.w"]),
        ([f"h_{n}.w" for n in range(8)], ["h_{0..7}.w"]),
        (["w.0.0", "w.0.1", "w.1.0"], ["w.0.{0..1}", "w.1.0"]),
        (["w.0.0", "w.0.1", "w.1.0", "w.1.1"], ["w.{0..1}.{0..1}"]),
        (["w.00", "w.01"], ["w.00", "w.01"]),
        ([".a[0].b", ".a[1].b"], [".a[{0..1}].b"]),
    ],
)
def test_names_of_groups(keys: list[str], shown: list[str]) -> None:
    assert names_of(*keys) == shown


def test_members_are_in_the_order_of_their_numbers() -> None:
    (line,) = lines("h.10.w", "h.2.w", "h.1.w").values()
    assert line.group.items == (2, 1, 0)
    assert line.text == "E1 h.{1..2,10}.w 2"


EXPERTS = lines(*(f"l.{n}.e.{e}.w" for n in range(3) for e in range(4)))


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("E1[1,2]", (6,)),
        ("E1[*,0]", (0, 4, 8)),
        ("E1[2,*]", (8, 9, 10, 11)),
        ("E1[0..1,3]", (3, 7)),
        (" E1[0,0] ", (0,)),
    ],
)
def test_members_are_referred_to_by_number(text: str, items: tuple[int, ...]) -> None:
    assert resolve(text, "E", EXPERTS).items == items


@pytest.mark.parametrize(
    "text",
    ["E2", "E1[3,0]", "E1[0]", "E1[0,0,0]", "E1[0..9,0]", "E1[1..0,0]", "E1[]", "E1[a,0]", "E1#0/3",
     "E1#1/1", "E1#4/3", "e1", "E1 E1", "l.0.e.0.w", "", "E" * 500, "E1[-1,0]"],
)  # fmt: skip
def test_references_to_nothing(text: str) -> None:
    with pytest.raises(WrongAnswerError) as caught:
        resolve(text, "E", EXPERTS)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "wanted", "shares"),
    [
        ("E1", (3,), [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]),
        ("E1", (4,), [(0, 4, 8), (1, 5, 9), (2, 6, 10), (3, 7, 11)]),
        ("E1", (), [tuple(range(12))]),
        ("E1[*,0]#*/2", (6,), [(0,), (0,), (4,), (4,), (8,), (8,)]),
        ("E1[0,0]#*/2", (2,), [(0,), (0,)]),
        ("E1[0,0]#2/2", (), [(0,)]),
    ],
)
def test_members_are_shared_out(
    text: str, wanted: tuple[int, ...], shares: list[tuple[int, ...]]
) -> None:
    assert shared_out(resolve(text, "E", EXPERTS), wanted, len(shares)) == shares


def test_sharing_out_that_is_not_clear_is_refused() -> None:
    square = lines(*(f"l.{n}.e.{e}.w" for n in range(3) for e in range(3)))
    with pytest.raises(WrongAnswerError, match="not clear"):
        shared_out(resolve("E1", "E", square), (3,), 3)
    with pytest.raises(WrongAnswerError, match="9 members for 2 leaves"):
        shared_out(resolve("E1", "E", square), (2,), 2)
