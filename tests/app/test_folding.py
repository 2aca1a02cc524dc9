"""Folded blocks by keys: what is shown, and that keys do to a block what they do to a row."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from textual.pilot import Pilot

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.theme import ASCII
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.app.widgets.panels import Overview
from s2p_tui.session.session import Session
from tests.app.reading import keys, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import fitting, make_session

LAYERS, EXPERTS = 10, 12


def blocks(layers: int = LAYERS, experts: int = EXPERTS, left_over: int = 0) -> Session:
    """Per layer two leaves of its own and three per expert, between an embedding and a norm."""
    names = ["embed.weight"]
    for layer in range(layers):
        names += [f"layers.{layer}.{part}" for part in ("q", "k")]
        names += [
            f"layers.{layer}.experts.{e}.{p}" for e in range(experts) for p in ("a", "b", "c")
        ]
    names.append("norm.weight")
    shapes = {"a": (2, 3), "b": (3, 2), "c": (4,)}

    def shape(name: str) -> tuple[int, ...]:
        return shapes.get(name.rpartition(".")[2], (2,))

    def path(name: str) -> str:
        words = (f"[{word}]" if word.isdecimal() else f".{word}" for word in name.split("."))
        return "".join(words)

    return make_session(
        (
            *(Entry(name, shape(name), "float32") for name in names),
            *(Entry(f"left.{n}", (7,), "float32") for n in range(left_over)),
        ),
        (Leaf(path(name), shape(name), "float32") for name in names),
    )


SIZE = 2 + 3 * EXPERTS
"""Rows of a layer."""


def drawn(workspace: Workspace) -> list[str]:
    """The name on the right side of every line."""
    view = workspace.view
    columns = view.columns
    left = columns.left + columns.symbol + columns.leaf.shape + columns.leaf.dtype
    lines = range(min(view.size.height, view.virtual_size.height))
    return [view.render_line(y).text[left:].split("  ")[0].strip() for y in lines]


def signs(workspace: Workspace) -> str:
    view = workspace.view
    lines = range(min(view.size.height, view.virtual_size.height))
    return "".join(view.render_line(y).text[view.columns.left + 1] for y in lines)


async def test_a_long_list_opens_folded(opened: Opened) -> None:
    async with opened(blocks()) as (_, workspace):
        assert drawn(workspace) == [".embed.weight", ".layers[0 … 9] ×10", ".norm.weight"]
        assert signs(workspace) == "✓✓✓"
        assert "layers.0 … 9" in workspace.view.render_line(1).text
        assert f"{LAYERS * SIZE} rows" in workspace.view.render_line(1).text


async def test_a_short_list_opens_unfolded(opened: Opened) -> None:
    async with opened(blocks(2, 2)) as (_, workspace):
        assert workspace.view.virtual_size.height == len(workspace.session)


async def test_tab_unfolds_level_by_level_and_folds_again(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab")
        assert drawn(workspace)[:3] == [".embed.weight", ".layers[0]", ".layers[1]"]
        await pilot.press("j", "tab")
        assert drawn(workspace)[1:6] == [
            ".layers[0]",
            ".layers[1].q",
            ".layers[1].k",
            ".layers[1].experts[0 … 11] ×12",
            ".layers[2]",
        ]
        await pilot.press("tab")
        assert drawn(workspace)[1:4] == [".layers[0]", ".layers[1]", ".layers[2]"]
        assert workspace.cursor.index == 1 + SIZE
        await pilot.press("shift+tab")
        assert len(drawn(workspace)) == 3
        assert workspace.cursor.index == 1
        await pilot.press("shift+tab")
        assert "no repeated block" in status(workspace)


async def test_all_is_unfolded_and_folded(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("F")
        assert workspace.view.virtual_size.height == len(workspace.session)
        await pilot.press("5", "0", "enter", "F")
        assert len(drawn(workspace)) == 3
        assert workspace.cursor.index == 1


async def test_the_cursor_walks_over_lines(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        walked = []
        for key in ("j", "j", "j", "k", "k", "G", "g"):
            await pilot.press(key)
            walked.append(workspace.cursor.index)
        last = len(workspace.session) - 1
        assert walked == [1, last, last, 1, 0, last, 0]
        assert not workspace.cursor.is_block
        await pilot.press("j")
        assert workspace.cursor.is_block
        assert "row 2" not in status(workspace)
        details = workspace.query_one("#details", Lines).texts
        assert f"10 blocks, {LAYERS * SIZE} rows" in details[1]
        assert details[2].strip() == f"✓{LAYERS * SIZE}"


async def test_the_worst_fit_is_shown_and_kept_up(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("F", "5", "enter", "delete", "g", "F")
        assert signs(workspace)[:3] == "✓✗✓"
        await pilot.press("u")
        assert signs(workspace)[:3] == "✓✓✓"


@pytest.mark.parametrize("pressed", ["n", "NN"])
@pytest.mark.slow("opens the app for every case")
async def test_n_unfolds_what_hides_the_row(opened: Opened, pressed: str) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("6", "1", "enter", "delete", "F", "F", "g", *pressed)
        assert workspace.cursor.index == 60
        assert not workspace.cursor.is_block
        assert len(workspace.cursor.line_at(1)) == SIZE


async def test_n_goes_into_the_block_it_stands_on(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("6", "1", "enter", "delete", "F", "F", "g", "j", "n")
        assert workspace.cursor.index == 60


@pytest.mark.slow("drives the app through many screens")
async def test_find_unfolds_what_hides_a_match(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("slash", *"layers[7].k")
        assert "›" in workspace.view.render_line(1).text[:3]
        await pilot.press("enter")
        assert workspace.session.target.skeleton[workspace.cursor.index].path == ".layers[7].k"
        assert not workspace.cursor.is_block


async def test_a_row_number_unfolds_what_hides_the_row(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("1", "0", "0", "enter")
        assert workspace.cursor.index == 99
        assert not workspace.cursor.is_block


def layers(workspace: Workspace) -> list[str]:
    """Which layer's entries each layer's rows take, `?` where they are mixed, `-` where none."""
    found = []
    for n in range(LAYERS):
        rows = workspace.session.alignment.rows[1 + n * SIZE : 1 + (n + 1) * SIZE]
        taken = {key.split(".")[1] for row in rows for key in row.keys}
        found.append("-" if not taken else taken.pop() if len(taken) == 1 else "?")
    return found


async def test_a_block_moves_past_its_neighbour_as_one_edit(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "J")
        assert layers(workspace)[:3] == ["1", "0", "2"]
        assert workspace.cursor.index == 1 + SIZE
        assert workspace.cursor.is_block
        await pilot.press("J", "J", "K")
        assert layers(workspace)[:4] == ["1", "2", "0", "3"]
        assert len(workspace.session.history) == 4
        await pilot.press("u", "u", "u", "u")
        assert layers(workspace) == [str(n) for n in range(LAYERS)]


async def test_a_block_moves_past_all_of_a_neighbour_that_is_unfolded(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "j", "tab", "k", "J")
        rows = workspace.session.alignment.rows
        assert [rows[1].keys, rows[1 + SIZE].keys] == [("layers.1.q",), ("layers.0.q",)]
        assert rows[2 * SIZE].keys == (f"layers.0.experts.{EXPERTS - 1}.c",)
        await pilot.press("u")
        assert workspace.session.alignment.rows[1].keys == ("layers.0.q",)


async def test_a_block_moves_past_a_single_row_by_one(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        before = keys(workspace)
        await pilot.press("j", "K")
        assert keys(workspace) == [*before[1:-1], before[0], before[-1]]
        assert workspace.cursor.index == 0
        assert workspace.cursor.marks == set(range(LAYERS * SIZE))
        await pilot.press("J")
        assert keys(workspace) == before


async def test_a_block_at_the_edge_stays(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "K", "K")
        assert workspace.cursor.index == 0
        assert "first row already" in status(workspace)


async def test_a_row_that_moves_into_a_block_unfolds_it(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("J")
        assert keys(workspace)[:2] == ["layers.0.q", "embed.weight"]
        assert workspace.cursor.index == 1
        assert not workspace.cursor.is_block


async def test_a_block_is_picked_up_and_placed(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "m", "j", "j", "j")
        assert "↕" in workspace.view.render_line(1).text[:3]
        await pilot.press("enter")
        assert layers(workspace)[:5] == ["1", "2", "3", "0", "4"]
        assert workspace.cursor.index == 1 + 3 * SIZE
        await pilot.press("m", "k", "k", "enter")
        assert layers(workspace)[:5] == ["1", "0", "2", "3", "4"]
        assert len(workspace.session.history) == 2


async def test_blocks_are_swapped(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "m", "j", "j", "j", "x")
        assert layers(workspace)[:5] == ["3", "1", "2", "0", "4"]
        await pilot.press("m", "G", "x")
        assert "cannot be swapped" in status(workspace)
        assert workspace.cursor.picked is not None
        assert len(workspace.session.history) == 1


async def test_a_block_goes_to_the_bench_and_its_gap_comes_and_goes(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "j", "delete")
        assert layers(workspace)[:3] == ["0", "-", "2"]
        assert len(workspace.session.alignment.bench) == SIZE
        assert f"Sent {SIZE} entries" in status(workspace)
        await pilot.press("u", "s", "s")
        assert layers(workspace)[:4] == ["0", "-", "1", "2"]
        assert len(workspace.session.history) == 1
        rows = workspace.session.alignment.rows
        assert all(row.gap for row in rows[1 + SIZE : 1 + 2 * SIZE])
        await pilot.press("s", "s")
        assert layers(workspace) == [str(n) for n in range(LAYERS)]


async def test_doubtful_rows_of_a_block_are_trusted_together(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        # Their a and b have the same size but other axes.
        await pilot.press("F", "4", "enter", "J", "6", "6", "enter", "J", "F", "g", "j", "y")
        assert workspace.session.counts[Fit.DOUBTFUL] == 4
        assert workspace.session.blocking == 0
        assert "Trusted 4 rows" in status(workspace)
        await pilot.press("y")
        assert workspace.session.blocking == 4


async def test_a_block_is_marked_as_its_rows_are(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        await pilot.press("j", "tab", "space")
        assert workspace.cursor.marks == set(range(1, 1 + SIZE))
        assert workspace.cursor.index == 1 + SIZE
        assert "●" in workspace.view.render_line(1).text[:3]
        await pilot.press("v", "j")
        assert workspace.cursor.marked() == list(range(1, 1 + 3 * SIZE))
        await pilot.press("space", "k", "k", "k", "space")
        assert workspace.cursor.marked() == list(range(1 + SIZE, 1 + 3 * SIZE))


async def test_a_long_bench_folds(opened: Opened) -> None:
    async with opened(blocks(left_over=40)) as (pilot, workspace):
        assert drawn(workspace)[3] == "bench ×40"
        await pilot.press("G", "m")
        assert "Tab unfolds" in status(workspace)
        await pilot.press("tab", "j")
        assert workspace.session.benched(workspace.cursor.index) == "left.1"
        await pilot.press("tab")
        assert drawn(workspace)[3] == "bench ×40"
        assert "40 entries on the bench" in workspace.query_one("#details", Lines).texts[1]


async def test_ascii_only(opened: Opened) -> None:
    async with opened(blocks(), ascii_only=True) as (pilot, workspace):
        await pilot.press("j")
        assert drawn(workspace)[1] == ".layers[0 .. 9] x10"
        view = workspace.view
        assert view.render_line(1).text.startswith(f"{ASCII.cursor} {ASCII.folded}")
        for widget in (*workspace.query(Lines), view):
            assert all(widget.render_line(y).text.isascii() for y in range(widget.size.height))


async def test_narrow_windows_keep_the_count(opened: Opened) -> None:
    async with opened(blocks(), size=(40, 10)) as (_, workspace):
        assert "×10" in workspace.view.render_line(1).text
        assert not workspace.query_one(Overview).display


@pytest.mark.slow("drives the app through many screens")
async def test_the_overview_shows_where_the_trouble_is(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        overview = workspace.query_one(Overview)
        assert not overview.display
        await pilot.press("F")
        await pilot.pause()
        assert overview.display

        def column() -> str:
            return "".join(overview.render_line(y).text for y in range(overview.size.height))

        assert set(column()) == {" "}
        await pilot.press("2", "0", "0", "enter", "delete", "1", "9", "0", "enter", "delete")
        height, count = overview.size.height, workspace.view.line_count
        assert {n for n, sign in enumerate(column()) if sign == "✗"} == {
            row * height // count for row in (189, 199)
        }
        await pilot.press("g")
        await pilot.click(Overview, offset=(0, 199 * height // count))
        assert workspace.cursor.index == 199
        await pilot.press("u", "u")
        assert set(column()) == {" "}


async def test_the_overview_marks_the_lines_that_scrolling_leads_to(opened: Opened) -> None:
    async with opened(blocks(60)) as (pilot, workspace):
        await pilot.press("j", "tab")
        await pilot.pause()
        overview, view = workspace.query_one(Overview), workspace.view
        assert overview.display
        await pilot.press(*str(1 + 50 * SIZE + 1), "enter", "delete", "tab", "g")
        await pilot.pause()
        line, height = view.line_of(1 + 50 * SIZE), overview.size.height
        (marked,) = (y for y in range(height) if overview.render_line(y).text == "✗")
        assert marked * view.line_count // height <= line
        assert line < (marked + 1) * view.line_count // height


async def test_no_overview_beside_a_list_that_is_all_in_sight(opened: Opened) -> None:
    async with opened(fitting(5)) as (_, workspace):
        assert not workspace.query_one(Overview).display


KEYS = [
    *"jjkkJJKKmsssnNuuFvgG ", "tab", "shift+tab", "tab", "enter", "x", "escape", "delete",
    "ctrl+y", "y", "pagedown", "pageup",
]  # fmt: skip


async def one_by_one(pilot: Pilot[object], pressed: Iterable[str]) -> None:
    for key in pressed:
        await pilot.press(key)


async def in_a_burst(pilot: Pilot[object], pressed: Iterable[str]) -> None:
    """All keys are in the queue before the app looks at the first."""
    from textual import events
    from textual.keys import _character_to_key

    for key in pressed:
        name = _character_to_key(key) if len(key) == 1 else key
        pilot.app.post_message(events.Key(name, key if len(key) == 1 else None))
    await pilot.pause()


@pytest.mark.slow("presses hundreds of keys one by one")
async def test_a_burst_ends_where_the_same_keys_one_by_one_do(opened: Opened) -> None:
    pressed = random.Random(0).choices(KEYS, k=300)
    ends: list[tuple[Alignment, int]] = []
    for press in (one_by_one, in_a_burst):
        session = blocks(6, 18, left_over=3)
        async with opened(session, resume="afresh") as (pilot, workspace):
            await press(pilot, pressed)
            await until(pilot, lambda: pilot.app.keys_are_done)
            await pilot.pause()
            ends.append((workspace.session.alignment, workspace.cursor.index))
            flags = workspace.view.columns.flags
            height = workspace.view.size.height
            shown = [workspace.view.render_line(y).text[:flags] for y in range(height)]
            assert sum("▸" in flag for flag in shown) == 1
    assert ends[0] == ends[1]
    assert len(ends[0][0].rows) == 6 * (2 + 3 * 18) + 2


@pytest.mark.parametrize("size", [(100, 30), (60, 12)])
@pytest.mark.slow("opens the app for every case")
async def test_what_is_on_the_screen_is_what_would_be_drawn_anew(
    opened: Opened, size: tuple[int, int]
) -> None:
    keys = (*KEYS, "pagedown", "pageup", "G", "g", "s")
    dice = random.Random(1)
    async with opened(blocks(6, 18, left_over=3), size, resume="afresh") as (pilot, workspace):
        for _ in range(15):
            await in_a_burst(pilot, dice.choices(keys, k=dice.randint(1, 12)))
            await until(pilot, lambda: pilot.app.keys_are_done and workspace.is_current)
            await pilot.pause()
            shown = on_screen(pilot)
            workspace.view.notify_style_update()
            workspace.view.refresh()
            await pilot.pause()
            assert on_screen(pilot) == shown


def on_screen(pilot: Pilot[object]) -> list[str]:
    screen = pilot.app.screen
    return [strip.text for strip in screen._compositor.render_strips(screen.size)]
