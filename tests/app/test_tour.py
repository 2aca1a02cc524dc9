"""What a guided run says, from the first row to the end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from textual.pilot import Pilot

from s2p_tui.app.screens.convert import ConvertForm, Result
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.tour import Tour
from s2p_tui.app.widgets.panels import Status, Tip
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import reordered

_NARROWEST = (40, 10)


def _shown(workspace: Workspace, kind: type[Tip | Status]) -> str:
    widget = workspace.query_one(kind)
    return " ".join(widget.render_line(y).text.strip() for y in range(widget.size.height))


async def _convert(pilot: Pilot[object]) -> None:
    await pilot.press("a", "enter", "c")
    await until(pilot, lambda: isinstance(pilot.app.screen, ConvertForm))
    await pilot.press("enter")


@pytest.mark.slow("drives the app through several screens")
async def test_each_tip_leads_on_and_fits_the_smallest_screen(
    opened: Opened, tmp_path: Path
) -> None:
    gate = threading.Event()
    found = "Both models agree."
    tour = Tour(lambda: found if gate.wait() else "")
    async with opened(reordered("order"), _NARROWEST, output=tmp_path / "model.eqx", tour=tour) as (
        pilot,
        workspace,
    ):
        assert _shown(workspace, Tip).endswith("a has the matcher propose.")
        await pilot.press("J")
        assert _shown(workspace, Tip).endswith("look through it, Enter takes it.")
        await _convert(pilot)
        await until(pilot, lambda: "Running" in _shown(workspace, Status))
        assert "Now both models run" in _shown(workspace, Tip)
        gate.set()
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        await pilot.press("enter")
        assert found in _shown(workspace, Status)
        assert _shown(workspace, Tip).startswith("Demo: done.")


@pytest.mark.slow("drives the app through several screens")
async def test_what_an_earlier_run_left_is_not_told(opened: Opened) -> None:
    tour = Tour(str)
    for _ in range(2):
        async with opened(reordered("order"), resume="afresh", tour=tour) as (pilot, workspace):
            assert "Started over" not in _shown(workspace, Status)
            await pilot.press("J")
    async with opened(reordered("order"), resume="afresh") as (pilot, workspace):
        await until(pilot, lambda: "Started over" in _shown(workspace, Status))
