"""`t`: keys in, rows and files out."""

from __future__ import annotations

import json
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SendToBench, SetRows
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Concat, Constant, Permute, Scale, Split, Stack, Sum, Take
from s2p_tui.app.screens.choose_transform import ChooseTransform
from s2p_tui.app.screens.convert import Result
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session
from tests.app.pairs import fused, many_keys, scanned, session_of, turned, turned_up
from tests.app.reading import bench, footer, keys, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import linears, make_session


def array(session: Session, key: str) -> np.ndarray:
    shape = session.checkpoint.state_dict.shape(key)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def listed(pilot: Pilot[object]) -> list[str]:
    options = pilot.app.screen.query_one(OptionList)
    return [str(option.prompt).strip() for option in options.options]


def highlighted(pilot: Pilot[object]) -> int | None:
    return pilot.app.screen.query_one(OptionList).highlighted


def said(pilot: Pilot[object], where: str = "#why") -> str:
    return str(pilot.app.screen.query_one(where).render())


async def converted(pilot: Pilot[object], session: Session, output: Path) -> list[np.ndarray]:
    """The leaves of the file that `c` writes."""
    await pilot.press("c", "enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, Result))
    await pilot.press("enter")
    like = [np.zeros(leaf.shape, leaf.dtype) for leaf in session.target.skeleton]
    return [np.asarray(leaf) for leaf in eqx.tree_deserialise_leaves(output, like)]


async def test_a_layout_is_chosen_undone_and_redone(opened: Opened) -> None:
    async with opened(turned()) as (pilot, workspace):
        session = workspace.session
        assert session.verdict(0).fit is Fit.DOUBTFUL
        await pilot.press("t")
        assert isinstance(pilot.app.screen, ChooseTransform)
        assert listed(pilot) == [
            "1 ≈ permute axes to (1, 0)",
            "2 ? reshape to 5×3  (now)",
            "3   multiply by a number…",
            "4   fill with a constant…",
        ]
        assert highlighted(pilot) == 1
        assert "may mix the elements" in said(pilot)
        await pilot.press("1")
        assert "transformed: permute axes" in said(pilot)
        await pilot.press("enter")
        assert pilot.app.screen is workspace
        assert session.alignment.rows[0].source == Permute(Take("lin.weight"), (1, 0))
        assert session.alignment.rows[0].by == "user"
        assert session.verdict(0).fit is Fit.TRANSFORMED
        assert "Row 1: permute axes to (1, 0)." in status(workspace)
        await pilot.press("u")
        assert session.verdict(0).fit is Fit.DOUBTFUL
        await pilot.press("ctrl+y")
        assert session.verdict(0).fit is Fit.TRANSFORMED


@pytest.mark.parametrize("leave", ["escape", "t", "q"])
@pytest.mark.slow("opens the app for every case")
async def test_the_list_is_left_without_an_edit(opened: Opened, leave: str) -> None:
    async with opened(turned()) as (pilot, workspace):
        await pilot.press("t", "k", leave)
        assert pilot.app.screen is workspace
        assert not len(workspace.session.history)


async def test_taking_what_is_there_already_is_no_edit(opened: Opened) -> None:
    async with opened(turned()) as (pilot, workspace):
        await pilot.press("t", "enter")
        assert not len(workspace.session.history)
        assert "this is the current transform" in status(workspace)


async def test_an_empty_list_says_why(opened: Opened) -> None:
    async with opened(turned()) as (pilot, _):
        await pilot.press("j", "t")
        assert said(pilot, "#none") == "No layout change turns 10×3 into 5×7."
        assert listed(pilot) == ["1   fill with a constant…"]


@pytest.mark.parametrize(
    ("typed", "place"),
    [("2", 1), ("1 2", 11), ("1 2 backspace 3", 2), ("9 9", 8), ("0", 0), ("1 j 2", 1), ("j j", 2)],
)
@pytest.mark.slow("opens the app for every case")
async def test_digits_jump(opened: Opened, typed: str, place: int) -> None:
    async with opened(session_of({"a": (24, 2)}, {".x": (2, 2)})) as (pilot, _):
        await pilot.press("t")
        assert len(listed(pilot)) > 12
        await pilot.press(*typed.split())
        assert highlighted(pilot) == place


@pytest.mark.slow("drives the app through many screens")
async def test_marked_rows_are_stacked_and_converted(opened: Opened, tmp_path: Path) -> None:
    session, output = scanned(), tmp_path / "m.eqx"
    async with opened(session, output=output) as (pilot, workspace):
        await pilot.press("g", "space", "space", "space", "g", "t")
        assert listed(pilot)[0] == "1 ≈ stack 3 on axis 0"
        await pilot.press("1", "enter")
        row = session.alignment.rows[0]
        assert row.source == Stack(tuple(Take(f"layers.{n}.weight") for n in range(3)), 0)
        assert keys(workspace) == ["layers.0.weight", "-", "-"]
        assert workspace.cursor.marked() == []
        assert "layers.{0…2}.weight" in workspace.view.render_line(0).text
        assert " 2×3 " in workspace.view.render_line(0).text
        details = workspace.query_one("#details", Lines).texts
        assert details[0].strip() == "layers.{0…2}.weight  3 of 2×3 float32"
        await pilot.press("G", "m", "2", "enter", "3", "enter", "s")
        leaves = await converted(pilot, session, output)
    expected = np.stack([array(session, f"layers.{n}.weight") for n in range(3)])
    assert np.array_equal(leaves[0], expected)
    assert np.array_equal(leaves[1], array(session, "head"))
    saved = json.loads((tmp_path / "m.mapping.json").read_text())["rows"][0]
    assert saved["sources"] == [f"layers.{n}.weight" for n in range(3)]
    assert saved["transform"] == {"op": "stack", "of": [0, 1, 2], "axis": 0}


@pytest.mark.slow("drives the app through several screens")
async def test_entries_listed_by_name_are_stacked_by_number(opened: Opened) -> None:
    names = [f"layers.{n}.weight" for n in sorted(range(12), key=str)]
    session = session_of(dict.fromkeys(names, (2, 2)), {".w": (12, 2, 2)})
    async with opened(session) as (pilot, _):
        await pilot.press("G", "v", "g", "t")
        assert listed(pilot)[:2] == [
            "1 ≈ by number: stack 12 on axis 0",
            "2 ≈ by number: each: permute axes to (1, 0); then stack 12 on axis 0",
        ]
        assert "≈ in list order: stack 12 on axis 0" in listed(pilot)[2]
        await pilot.press("1", "enter")
        assert session.alignment.rows[0].keys == tuple(f"layers.{n}.weight" for n in range(12))
        await pilot.press("u", "G", "v", "g", "t", "3", "enter")
        assert session.alignment.rows[0].keys == tuple(names)


async def test_marks_are_taken_in_list_order_and_from_the_bench(opened: Opened) -> None:
    session = session_of({"a": (2,), "b": (3,), "c": (2,)}, {".x": (4,), ".y": (3,)})
    async with opened(session) as (pilot, workspace):
        assert bench(workspace) == ("c",)
        await pilot.press("G", "space", "g", "space", "g", "t")
        assert listed(pilot)[0] == "1 ≈ concatenate 2 on axis 0"
        await pilot.press("1", "enter")
        assert session.alignment.rows[0].source == Concat((Take("a"), Take("c")), 0)
        assert bench(workspace) == ()


async def test_what_the_leaf_took_before_goes_to_the_bench(opened: Opened) -> None:
    session = session_of({"x": (9,), "a": (4,), "b": (4,)}, {".x": (4,), ".y": (4,), ".z": (4,)})
    async with opened(session) as (pilot, workspace):
        await pilot.press("g", "j", "v", "j", "space", "g", "t", "1", "enter")
        assert session.alignment.rows[0].source == Sum((Take("a"), Take("b")))
        assert keys(workspace) == ["a", "-", "-"]
        assert bench(workspace) == ("x",)
        assert "x went to the bench" in status(workspace)
        await pilot.press("u")
        assert keys(workspace) == ["x", "a", "b"]


@pytest.mark.parametrize("mark", ["space space space", "j space space"])
@pytest.mark.slow("opens the app for every case")
async def test_an_entry_is_split_over_marked_rows_and_converted(
    opened: Opened, tmp_path: Path, mark: str
) -> None:
    session, output = fused(), tmp_path / "m.eqx"
    async with opened(session, output=output) as (pilot, workspace):
        await pilot.press("g", *mark.split(), "g", "t")
        assert listed(pilot)[:2] == [
            "1 ≈ split over the 3 rows along axis 0",
            "2 ≈ split over the 3 rows along axis 0, each: permute axes to (1, 0)",
        ]
        await pilot.press("2", "enter")
        assert len(session.history) == 1
        assert bench(workspace) == ("out", "bias")
        assert "qkv [2:4]" in workspace.view.render_line(1).text
        assert status(workspace).startswith("out +1 went to the bench. Row 1: split over")
        await pilot.press("G", "k", "m", "4", "enter", "G", "m", "5", "enter")
        leaves = await converted(pilot, session, output)
    parts = np.split(array(session, "qkv"), 3)
    assert all(np.array_equal(leaf, part.T) for leaf, part in zip(leaves, parts, strict=False))
    again = Session(session.checkpoint, session.target)
    again.start_from(load_mapping(tmp_path / "m.mapping.json"))
    assert [row.source for row in again.alignment.rows] == [
        row.source for row in session.alignment.rows
    ]


def fused_with_bias(square: bool = False) -> Session:
    """A fused weight and its bias on the bench; three layers that nothing feeds."""
    wide = 6 if square else 4
    session = session_of(
        {"attn.qkv.weight": (6, wide), "attn.qkv.bias": (6,)},
        {f".{n}.{r}": s for n in "qkv" for r, s in (("weight", (2, wide)), ("bias", (2,)))},
        "equinox.nn.Linear",
    )
    session.edit(SendToBench((0, 1)))
    return session


@pytest.mark.slow("drives the app through many screens")
async def test_a_bias_is_split_along_where_that_is_the_only_way(opened: Opened) -> None:
    session = fused_with_bias()
    async with opened(session) as (pilot, workspace):
        await pilot.press("g", *["space", "j"] * 3, "G", "k", "space", "g", "t")
        assert listed(pilot)[0].endswith("along axis 0, with attn.qkv.bias")
        await pilot.press("1", "enter")
        assert len(session.history) == 2
        for n in range(3):
            for at, key in ((2 * n, "attn.qkv.weight"), (2 * n + 1, "attn.qkv.bias")):
                row = session.alignment.rows[at]
                assert row.source == Split(Take(key), 0, 2 * n, 2 * n + 2)
        assert session.counts == {Fit.TRANSFORMED: 6}
        assert bench(workspace) == ()
        await pilot.press("u")
        assert bench(workspace) == ("attn.qkv.weight", "attn.qkv.bias")


async def test_a_part_of_a_bias_goes_along_with_the_part_of_its_weight(opened: Opened) -> None:
    session = fused_with_bias()
    async with opened(session) as (pilot, workspace):
        await pilot.press("3", "G", "G", "k", "space", "3", "G", "t", "2", "enter")
        assert session.alignment.rows[2].source == Split(Take("attn.qkv.weight"), 0, 2, 4)
        assert session.alignment.rows[3].source == Split(Take("attn.qkv.bias"), 0, 2, 4)
        assert "with attn.qkv.bias" in status(workspace)


@pytest.mark.slow("drives the app through many screens")
async def test_a_bias_stays_where_there_is_another_way_or_it_was_decided(opened: Opened) -> None:
    session = fused_with_bias(square=True)
    async with opened(session) as (pilot, _):
        await pilot.press("g", *["space", "j"] * 3, "G", "k", "space", "g", "t")
        assert not any("bias" in line for line in listed(pilot))
    session = fused_with_bias()
    session.edit(SetRows(((1, Row(Constant(0.0, (2,)), by="user")),)))
    async with opened(session) as (pilot, _):
        await pilot.press("g", *["space", "j"] * 3, "G", "k", "space", "g", "t")
        assert not any("bias" in line for line in listed(pilot))


async def test_a_picked_up_entry_is_split_over_marked_rows(opened: Opened) -> None:
    session = session_of({"a": (1,), "b": (1,), "kv": (4, 2)}, {".k": (2, 2), ".v": (2, 2)})
    async with opened(session) as (pilot, workspace):
        await pilot.press("G", "m", "g", "space", "space", "g", "t")
        await pilot.press("1", "enter")
        parts = [Split(Take("kv"), 0, 0, 2), Split(Take("kv"), 0, 2, 4)]
        assert [row.source for row in session.alignment.rows] == parts
        assert workspace.cursor.picked is None
        assert bench(workspace) == ("a", "b")


async def test_a_marked_entry_of_the_bench_is_split_over_marked_rows(opened: Opened) -> None:
    session = session_of({"kv": (4, 2)}, {".k": (2, 2), ".v": (2, 2)})
    async with opened(session) as (pilot, workspace):
        await pilot.press("g", "delete", "g", "space", "space")
        assert bench(workspace) == ("kv",)
        await pilot.press("G", "space", "g", "t", "1", "enter")
        parts = [Split(Take("kv"), 0, 0, 2), Split(Take("kv"), 0, 2, 4)]
        assert [row.source for row in session.alignment.rows] == parts


@pytest.mark.slow("drives the app through several screens")
async def test_parts_are_given_one_by_one(opened: Opened) -> None:
    async with opened(fused()) as (pilot, workspace):
        await pilot.press("g", "t", "1", "enter")
        assert "A part of" not in status(workspace)
        await pilot.press("m", "j", "t", "2", "enter")
        rows = workspace.session.alignment.rows
        assert [row.source for row in rows[:2]] == [
            Split(Take("qkv"), 0, 0, 2),
            Split(Take("qkv"), 0, 2, 4),
        ]


async def test_what_does_not_split_says_why(opened: Opened) -> None:
    async with opened(fused()) as (pilot, _):
        await pilot.press("3", "enter", "space", "5", "enter", "space", "g", "t")
        assert said(pilot, "#none").startswith("qkv (6×2: 12 elements) cannot be cut along an axis")


@pytest.mark.parametrize(
    ("pressed", "sources", "told"),
    [
        ("J", "1 0 2", ""),
        ("m 3 enter", "1 2 0", ""),
        ("m 3 x", "2 1 0", ""),
        ("delete", "- 1 2", "A part of qkv feeds no row now."),
        ("space space space delete", "- - -", ""),
        ("s s", ". 0 1", ""),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_rows_that_share_an_entry_are_moved(
    opened: Opened, pressed: str, sources: str, told: str
) -> None:
    async with opened(fused()) as (pilot, workspace):
        await pilot.press("g", "space", "space", "space", "g", "t", "1", "enter")
        await pilot.press(*pressed.split())
        words = {Split(Take("qkv"), 0, 2 * n, 2 * n + 2): str(n) for n in range(3)}
        alignment = workspace.session.alignment
        found = [words.get(r.source, "." if r.gap else "-") for r in alignment.rows[:3]]
        assert found == sources.split()
        used = {key for row in alignment.rows for key in row.keys}
        assert ("qkv" in used) is ("qkv" not in alignment.bench)
        assert ("A part of" in status(workspace)) is bool(told)
        assert told in status(workspace)
        await pilot.press("u")
        assert workspace.session.alignment.rows[0].source == Split(Take("qkv"), 0, 0, 2)


async def test_a_part_at_a_leaf_of_another_shape_stands_in_the_way(opened: Opened) -> None:
    async with opened(fused()) as (pilot, workspace):
        await pilot.press("g", "space", "space", "space", "g", "t", "1", "enter", "m", "5", "enter")
        assert workspace.session.verdict(4).fit is Fit.MISMATCHED
        assert workspace.session.verdict(4).blocks


@pytest.mark.slow("drives the app through many screens")
async def test_multiplied_by_a_number(opened: Opened, tmp_path: Path) -> None:
    session, output = session_of({"a": (4,)}, {".a": (4,)}), tmp_path / "m.eqx"
    async with opened(session, output=output) as (pilot, workspace):
        await pilot.press("t", "j", "j", "k", "k", "2", "enter")
        assert pilot.app.screen.query_one(Input).has_focus
        await pilot.press(*"nonsense", "enter")
        assert "type one such as" in said(pilot)
        await pilot.press("ctrl+u", *"inf", "enter")
        assert "is not finite" in said(pilot)
        await pilot.press("ctrl+u", *"0.5", "enter")
        assert session.alignment.rows[0].source == Scale(Take("a"), 0.5)
        await pilot.press("t")
        assert "multiply by 0.5  (now)" in " ".join(listed(pilot))
        await pilot.press("3", "enter", "2", "enter")
        assert session.alignment.rows[0].source == Scale(Take("a"), 2.0)
        (leaf,) = await converted(pilot, session, output)
        assert np.array_equal(leaf, 2 * array(session, "a"))
        await pilot.press("t", "3", "enter", "1", "enter")
        assert session.alignment.rows[0].source == Take("a")
        assert workspace.session.verdict(0).fit is Fit.EXACT


@pytest.mark.slow("drives the app through many screens")
async def test_filled_with_a_constant(opened: Opened, tmp_path: Path) -> None:
    session, output = turned(), tmp_path / "m.eqx"
    async with opened(session, output=output) as (pilot, workspace):
        await pilot.press("g", "t", "1", "enter", "j", "t", "1", "enter", *"-1.5", "enter")
        assert session.alignment.rows[1].source == Constant(-1.5, (5, 7))
        assert bench(workspace) == ("wide",)
        await pilot.press("G", "y")
        kernel, filled = await converted(pilot, session, output)
    assert np.array_equal(kernel, array(session, "lin.weight").T)
    assert np.array_equal(filled, np.full((5, 7), -1.5))


@pytest.mark.parametrize(
    ("dtype", "text", "why"),
    [
        ("int32", "0.5", "A leaf of int32 cannot hold 0.5"),
        ("uint8", "256", "cannot hold 256"),
        ("bool", "2", "cannot hold 2"),
        ("int8", "-129", "cannot hold -129"),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_a_constant_the_dtype_cannot_hold_is_refused(
    opened: Opened, dtype: str, text: str, why: str
) -> None:
    session = make_session((), [Leaf(".n", (2,), dtype)])
    async with opened(session) as (pilot, workspace):
        await pilot.press("t", "1", "enter", *text, "enter")
        assert why in said(pilot)
        await pilot.press("escape", "escape")
        assert pilot.app.screen is workspace
        assert not len(session.history)


async def test_whole_numbers_are_not_multiplied(opened: Opened) -> None:
    session = make_session([Entry("n", (2,), "int32")], [Leaf(".n", (2,), "int32")])
    async with opened(session) as (pilot, _):
        await pilot.press("t", "2", "enter", "2", "enter")
        assert "could overflow" in said(pilot)


@pytest.mark.parametrize(
    ("pressed", "reason"),
    [("G t", "no transform yet"), ("5 enter t", "Row 5 takes no entry: a Python scalar")],
)
async def test_where_there_is_nothing_to_choose(opened: Opened, pressed: str, reason: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press(*pressed.split())
        assert pilot.app.screen is workspace
        assert reason in status(workspace)


async def test_a_layer_rule_is_the_first_choice_and_anything_else_doubtful(opened: Opened) -> None:
    session = turned_up()
    async with opened(session) as (pilot, workspace):
        await pilot.press("t")
        first, second = listed(pilot)[:2]
        assert first.startswith("1 ≈ as its layer needs it: flip")
        assert first.endswith("(now)")
        assert second == "2 ? as it is, whatever its layer needs"
        await pilot.press("2", "enter")
        assert session.verdict(0).fit is Fit.DOUBTFUL
        assert "y trusts it" in status(workspace)
        await pilot.press("t")
        assert listed(pilot)[1].endswith("(now)")


async def test_many_keys_are_wrapped_and_bounded(opened: Opened) -> None:
    session = many_keys()
    names = [entry.key for entry in session.checkpoint.state_dict]
    async with opened(session, size=(80, 24)) as (pilot, workspace):
        await pilot.press("G", "v", "g", "t", "1", "enter")
        assert session.verdict(0).fit is Fit.TRANSFORMED
        assert f"{names[0][:5]}" in workspace.view.render_line(0).text
        assert "+99" in workspace.view.render_line(0).text
        details = workspace.query_one("#details", Lines)
        assert names[1] in " ".join(details.texts)
        assert len(details.texts) <= 8
        assert workspace.view.size.height >= 10


async def test_hints_name_it(opened: Opened) -> None:
    async with opened(turned(), size=(120, 30)) as (pilot, workspace):
        assert "t transform" in footer(workspace)
        await pilot.press("v")
        assert "t join or split" in footer(workspace)


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 10), (20, 6)])
@pytest.mark.parametrize("no_color", [False, True])
@pytest.mark.slow("draws the screen in every size")
async def test_any_size_and_signs(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], no_color: bool
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    session = session_of({"\x1b[31m[bold]é\n": (6, 4)}, {".[/]\x1b": (4, 6), ".y": (2, 3)})
    async with opened(session, size=size, ascii_only=True) as (pilot, _):
        await pilot.press("t", "j", "k", "9")
        screen = pilot.app.screen
        for strip in screen._compositor.render_strips(screen.size):
            assert strip.text.isascii()
            assert strip.text.isprintable()
        await pilot.press("1", "enter")
        assert isinstance(pilot.app.screen, Workspace)
        assert session.verdict(0).fit is Fit.TRANSFORMED
