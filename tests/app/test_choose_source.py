"""Enter: keys in; rows, bench and screen out."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot
from textual.widgets import Label

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Permute, Split, Take
from s2p_tui.app.screens.choose_source import ChooseSource
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.widgets.line_list import LineList
from s2p_tui.session.session import Session
from tests.app.pairs import BY_NAME, BY_ORDER, fused, hostile, session_of
from tests.app.reading import bench, keys, status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import linears, make_session, reordered


def listed(pilot: Pilot[object]) -> list[str]:
    screen = pilot.app.screen
    assert isinstance(screen, ChooseSource)
    view = screen.query_one(LineList)
    lines = (view.render_line(y).text.rstrip() for y in range(view.size.height))
    return [line for line in lines if line]


def filter_line(pilot: Pilot[object]) -> str:
    return pilot.app.screen.query_one("#filter").render_line(0).text


def why(pilot: Pilot[object]) -> str:
    return str(pilot.app.screen.query_one("#why", Label).content)


async def test_best_comes_first_with_shape_dtype_use_and_fit(opened: Opened) -> None:
    async with opened(reordered("order"), size=(120, 30)) as (pilot, _):
        await pilot.press("G", "enter")
        lines = listed(pilot)
        assert [line.lstrip("▸ ").split()[1] for line in lines] == [
            "lin3.bias",
            "lin2.bias",
            "lin1.bias",
            "lin3.weight",
            "lin2.weight",
            "lin1.weight",
        ]
        assert lines[0].split() == ["▸", "✓", "lin3.bias", "2", "float32", "row", "2", ".lin1.bias"]
        assert lines[2].split()[-1] == "here"
        assert why(pilot) == "row 2 .lin1.bias; exact"
        await pilot.press("down")
        assert "by name and structure lin3.bias belongs here" in why(pilot)


async def test_enter_takes_it_and_says_what_became_of_the_rest(opened: Opened) -> None:
    async with opened(reordered("order"), size=(140, 30)) as (pilot, workspace):
        await pilot.press("G", "enter", "enter")
        assert pilot.app.screen is workspace
        assert keys(workspace) == [BY_ORDER[0], "-", *BY_ORDER[2:5], "lin3.bias"]
        assert bench(workspace) == ("lin1.bias",)
        said = status(workspace)
        assert "Row 6: lin3.bias. Row 2 is empty now. lin1.bias went to the bench." in said
        assert workspace.cursor.index == 5
        assert workspace.session.verdict(5).fit is Fit.EXACT
        assert len(workspace.session.history) == 1
        await pilot.press("u")
        assert keys(workspace) == BY_ORDER


async def test_ctrl_x_swaps(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        await pilot.press("G", "enter", "ctrl+x")
        assert keys(workspace) == [BY_ORDER[0], "lin1.bias", *BY_ORDER[2:5], "lin3.bias"]
        assert bench(workspace) == ()
        await pilot.press("g", "enter", "ctrl+x", "N", "n")
        assert keys(workspace) == BY_NAME
        assert not workspace.session.blocking


async def test_rows_of_a_kind_are_not_swapped(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        await pilot.press("o", "e")
        chooser = pilot.app.screen
        assert isinstance(chooser, ChooseSource)
        await pilot.press("ctrl+x")
        assert pilot.app.screen is chooser
        assert keys(workspace) == BY_ORDER


async def test_nothing_to_swap_is_said(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("g", "enter", "ctrl+a", *"left", "ctrl+x")
        assert "No other row takes this entry" in status(workspace)
        assert not len(workspace.session.history)


async def test_typing_filters_and_escape_leaves(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        await pilot.press("g", "enter", *"lin2")
        assert [line.lstrip("▸ ").split()[1] for line in listed(pilot)] == ["lin2.weight"]
        await pilot.press("ctrl+a")
        assert [line.lstrip("▸ ").split()[1] for line in listed(pilot)] == [
            "lin2.weight",
            "lin2.bias",
        ]
        await pilot.press(*"qqqqqq")
        assert listed(pilot) == []
        assert why(pilot) == "No name is like this."
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, ChooseSource)
        await pilot.press("escape")
        assert pilot.app.screen is workspace
        assert keys(workspace) == BY_ORDER
        assert not len(workspace.session.history)


async def test_the_same_again_is_no_edit(opened: Opened) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("g", "enter", "enter")
        assert "The row takes it already" in status(workspace)
        assert not len(workspace.session.history)


async def test_a_candidate_is_laid_out_as_it_fits_best(opened: Opened) -> None:
    session = session_of({"w": (3, 5), "x": (2,)}, {".x": (2,), ".kernel": (5, 3)})
    async with opened(session) as (pilot, _):
        await pilot.press("G", "enter")
        assert listed(pilot)[0].lstrip("▸ ").startswith("≈ w")
        assert "permute axes to (1, 0)" in why(pilot)
        await pilot.press("enter")
        assert session.alignment.rows[1].source == Permute(Take("w"), (1, 0))


async def test_what_can_never_be_converted_is_hidden(opened: Opened) -> None:
    session = make_session(
        [
            Entry("w", (3, 5), "float32"),
            Entry("wide", (6, 5), "float32"),
            Entry("phases", (3, 5), "complex64"),
            Entry("x", (2,), "float32"),
        ],
        [Leaf(".kernel", (3, 5), "float32"), Leaf(".x", (2,), "float32")],
    )
    async with opened(session) as (pilot, _):
        await pilot.press("g", "enter")
        # Half of the wide one would do; what a cast cannot make and other sizes would not.
        assert [line.lstrip("▸ ").split()[1] for line in listed(pilot)] == ["w", "wide"]
        assert "ctrl+a: 2 more, which cannot be converted" in filter_line(pilot)
        await pilot.press("ctrl+a")
        assert {line.lstrip("▸ ").split()[1] for line in listed(pilot)} == {
            "w",
            "wide",
            "phases",
            "x",
        }
        assert "ctrl+a" not in filter_line(pilot)
        await pilot.press("ctrl+a", *"phas")
        assert listed(pilot) == []
        assert why(pilot) == "Nothing that fits: ctrl+a shows 1 that cannot be converted."


async def test_names_that_are_cut_do_not_read_alike(opened: Opened) -> None:
    session = make_session(
        (Entry(f"module.h.{n}.ln_{k}.weight", (4,), "float32") for n in (9, 10) for k in (1, 2)),
        (Leaf(f".h[{n}].norm_{k}", (4,), "float32") for n in (9, 10) for k in "ab"),
    )
    async with opened(session, size=(40, 14)) as (pilot, _):
        await pilot.press("g", "enter")
        names = [line.lstrip("▸ ").split()[1] for line in listed(pilot)]
        assert len(set(names)) == 4


@pytest.mark.slow("drives the app through several screens")
async def test_the_empty_leaf_beside_its_sibling_comes_first(opened: Opened) -> None:
    names = ("gamma", "beta")
    session = make_session(
        (Entry(f"n{n}.{name}", (4,), "float32") for n in range(3) for name in names),
        (
            Leaf(f".norms[{n}].{name}", (4,), "float32", owner="equinox.nn.LayerNorm")
            for n in range(3)
            for name in ("weight", "bias")
        ),
        arrange="order",
    )
    async with opened(session) as (pilot, workspace):
        # Two biases are free: that beside the entry's own scale is the one.
        await pilot.press("4", "enter", "delete", "6", "enter", "delete")
        assert bench(workspace) == ("n1.beta", "n2.beta")
        await pilot.press("G", "enter")
        assert listed(pilot)[0].split()[2] == ".norms[2].bias"
        await pilot.press("escape", "k", "enter")
        assert listed(pilot)[0].split()[2] == ".norms[1].bias"
        await pilot.press("escape", "6", "enter", "enter")
        assert listed(pilot)[0].split()[2] == "n2.beta"
        await pilot.press("enter")
        assert keys(workspace)[5] == "n2.beta"


@pytest.mark.slow("drives the app through many screens")
async def test_parts_of_an_entry_that_other_rows_take_stay(opened: Opened) -> None:
    async with opened(fused()) as (pilot, workspace):
        await pilot.press("g", "space", "space", "space", "g", "t", "enter", "escape")
        sources = [row.source for row in workspace.session.alignment.rows[:3]]
        assert all(isinstance(source, Split) for source in sources)
        await pilot.press("4", "enter", "enter", *"qkv", "enter")
        rows = workspace.session.alignment.rows
        assert [row.source for row in rows[:3]] == sources
        assert rows[3].keys == ("qkv",)


@pytest.mark.slow("drives the app through several screens")
async def test_an_output_layer_left_out_is_tied_to_the_embedding(opened: Opened) -> None:
    entries = {"embed.weight": (5, 3), "fc.weight": (3, 3), "fc.bias": (3,)}
    leaves = {f".{key}": shape for key, shape in entries.items()} | {".lm_head.weight": (5, 3)}
    session = make_session(
        (Entry(key, shape, "float32") for key, shape in entries.items()),
        (Leaf(path, shape, "float32", owner="equinox.nn.Linear") for path, shape in leaves.items()),
        arrange="order",
    )
    async with opened(session) as (pilot, workspace):
        await pilot.press("G", "enter")
        assert listed(pilot)[0].lstrip("▸ ").split()[1] == "embed.weight"
        await pilot.press("enter")
        assert keys(workspace) == [*entries, "embed.weight"]
        assert workspace.session.is_complete


async def test_a_benched_entry_chooses_its_leaf(opened: Opened) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("3", "enter", "delete")
        assert bench(workspace) == ("lin2.weight",)
        await pilot.press("G", "enter")
        lines = listed(pilot)
        assert lines[0].lstrip("▸ ").split()[:2] == ["✓", ".lin2.weight"]
        assert "takes nothing" in why(pilot)
        await pilot.press("enter")
        assert keys(workspace) == BY_NAME
        assert bench(workspace) == ()
        assert workspace.cursor.index == 2


async def test_what_takes_no_entry_says_why(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("5", "enter", "enter")
        assert pilot.app.screen is workspace
        assert "Row 5 takes no entry" in status(workspace)


async def test_enter_still_puts_down_and_jumps(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("3", "enter")
        assert workspace.cursor.index == 2
        await pilot.press("m", "j", "enter")
        assert pilot.app.screen is workspace
        assert keys(workspace)[:4] == ["a", "b", "d", "c"]


async def test_a_gap_gives_way(opened: Opened) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("G", "s", "enter", "enter")
        assert keys(workspace) == BY_NAME


@pytest.mark.parametrize(
    ("size", "ascii_only"),
    [((120, 40), False), ((80, 24), True), ((40, 10), True), ((20, 6), True)],
)
@pytest.mark.slow("opens the app for every case")
async def test_every_line_fits_any_screen(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], ascii_only: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    session: Session = hostile()
    async with opened(session, size=size, ascii_only=ascii_only) as (pilot, workspace):
        assert isinstance(workspace, Workspace)
        await pilot.press("enter")
        for key in ("down", "down", "pagedown", "up", "e"):
            await pilot.press(key)
            for strip in pilot.app.screen._compositor.render_strips():
                assert strip.cell_length == size[0]
                assert strip.text.isascii() or not ascii_only
                assert "\x1b" not in strip.text
        assert listed(pilot) or size[1] < 10
