"""Keys as the user has bound them: at work, and wherever keys are shown."""

from __future__ import annotations

import pytest
from textual.widgets import Input, OptionList, Static

from s2p_tui.app.keys import Keymap
from s2p_tui.app.screens.help import Help, Palette
from tests.app.reading import footer, keys
from tests.helpers.running_app import Opened
from tests.helpers.sessions import linears, make_session

MOVED = Keymap({"move_down": ("ctrl+n",), "gap": ("j", "f2"), "cursor_down": (), "help": ("f1",)})


async def test_bound_keys_work_and_those_they_left_do_not(opened: Opened) -> None:
    async with opened(linears(), keymap=MOVED) as (pilot, workspace):
        await pilot.press("J", "s")
        assert keys(workspace) == ["a", "b", "c", "d", ".", "e"]
        await pilot.press("ctrl+n")
        assert keys(workspace) == ["b", "a", "c", "d", ".", "e"]
        assert workspace.cursor.index == 1
        await pilot.press("j", "f2")
        assert workspace.session.alignment.rows[1].gap
        await pilot.press("f2")
        assert not workspace.session.alignment.rows[1].gap


@pytest.mark.slow("drives the app through several screens")
async def test_hints_help_and_palette_show_keys_as_they_are_bound(opened: Opened) -> None:
    async with opened(linears(), size=(160, 50), keymap=MOVED) as (pilot, workspace):
        assert "F1 help" in footer(workspace)
        assert "ctrl+n/K move" in footer(workspace)
        assert "j gap" in footer(workspace)
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, Help)
        shown = str(pilot.app.screen.query_one(Static).content)
        assert "ctrl+n  K shift+↑" in shown
        assert "F1" in shown
        await pilot.press("f1")
        assert pilot.app.screen is workspace
        await pilot.press("ctrl+p", *"gap on")
        prompt = pilot.app.screen.query_one(OptionList).get_option_at_index(0).prompt
        assert str(prompt).startswith("j F2 ")


@pytest.mark.slow("drives the app through many screens")
async def test_the_palette_has_every_action_and_does_it(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("J", "ctrl+p")
        assert isinstance(pilot.app.screen, Palette)
        await pilot.press(*"undo", "enter")
        await pilot.pause()
        assert pilot.app.screen is workspace
        assert keys(workspace) == ["a", "b", "c", "d", ".", "e"]
        await pilot.press("ctrl+p", "down", "down", "up", "enter")
        await pilot.pause()
        assert workspace.cursor.index == 1 - 1
        await pilot.press("ctrl+p", *"zzzz", "enter", "escape")
        assert pilot.app.screen is workspace


@pytest.mark.parametrize("width", [40, 80, 120])
async def test_help_breaks_no_line_in_its_column(opened: Opened, width: int) -> None:
    async with opened(linears(), size=(width, 24)) as (pilot, _):
        await pilot.press("?")
        await pilot.pause()
        table = pilot.app.screen.query_one(Static)
        lines = str(table.content).splitlines()
        assert max(map(len, lines)) <= table.size.width


@pytest.mark.parametrize(("size", "place"), [((80, 24), ""), ((40, 10), "1/6"), ((120, 40), "")])
async def test_the_row_number_is_somewhere(
    opened: Opened, size: tuple[int, int], place: str
) -> None:
    async with opened(linears(), size=size) as (pilot, workspace):
        assert workspace.view.columns.number or f" {place} " in footer(workspace)
        await pilot.press("G")
        if place:
            assert " bench 1/1 " in footer(workspace)


async def test_nothing_at_all_has_a_palette(opened: Opened) -> None:
    async with opened(make_session((), ())) as (pilot, workspace):
        await pilot.press("ctrl+p")
        assert isinstance(pilot.app.focused, Input)
        await pilot.press("escape", "Y")
        assert pilot.app.screen is workspace
