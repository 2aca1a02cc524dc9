"""Dialogs that are higher than the screen open where their focus is seen, scrolled no further."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from s2p_tui.app.theme import UNICODE
from s2p_tui.app.widgets.frame import Box

_LINES = 30
_FIELD_HEIGHT = 3


class _Dialog(ModalScreen[None]):
    """A box with a field below some lines of text."""

    def __init__(self, above: int) -> None:
        super().__init__()
        self._above = above

    def compose(self) -> ComposeResult:
        with Box(UNICODE, "Title", "keys"):
            yield Static("\n".join("above" for _ in range(self._above)))
            yield Input()
            yield Static("\n".join("below" for _ in range(_LINES - self._above)))


@pytest.mark.parametrize("above", [1, 3, 5, 6, 10, 25])
@pytest.mark.parametrize("height", [10, 11, 16])
@pytest.mark.slow("drives the app through several screens")
async def test_a_box_begins_at_its_top_with_what_has_the_focus_in_sight(
    above: int, height: int
) -> None:
    async with App[None]().run_test(size=(40, height)) as pilot:
        await pilot.app.push_screen(_Dialog(above))
        await pilot.pause()
        box = pilot.app.screen.query_one(Box)
        assert pilot.app.screen.focused is pilot.app.screen.query_one(Input)
        shown = box.scrollable_content_region.height
        assert shown < _LINES
        assert box.scroll_offset.y == max(0, above + _FIELD_HEIGHT - shown)
