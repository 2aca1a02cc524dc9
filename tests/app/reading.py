"""Reading the rows, the bench and the lines of an open app."""

from __future__ import annotations

from textual.pilot import Pilot

from s2p_tui.app import flows
from s2p_tui.app.review import Reviewing
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.review import Review
from s2p_tui.app.widgets.line_list import LineList
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.app.widgets.panels import Status
from s2p_tui.proposals.proposal import Proposal
from tests.app.pairs import SURE, swapping
from tests.helpers.running_app import until


def keys(workspace: Workspace) -> list[str]:
    """The key in each row, `-` for an empty row, `.` for a gap or a constant."""
    return [
        row.keys[0] if row.keys else "." if row.stays else "-"
        for row in workspace.session.alignment.rows
    ]


def bench(workspace: Workspace) -> tuple[str, ...]:
    return workspace.session.alignment.bench


def status(workspace: Workspace) -> str:
    return workspace.query_one("#status", Lines).texts[0].strip()


def footer(workspace: Workspace) -> str:
    return workspace.query_one("#bottom", Lines).texts[0]


def reviewed(pilot: Pilot[object]) -> Review:
    screen = pilot.app.screen
    assert isinstance(screen, Review)
    return screen


def shown(screen: Review) -> list[str]:
    """The list as it is on the screen, without empty lines."""
    view = screen.query_one(LineList)
    lines = (view.render_line(y).text.rstrip() for y in range(view.size.height))
    return [line for line in lines if line]


def opened_on_a_swap(workspace: Workspace) -> Proposal:
    """Rows 0 and 2, 1 and 3 exchanged, in two hunks."""
    proposal = swapping(workspace.session, (0, 2), (1, 3), sure=SURE)
    open_review(workspace, proposal)
    return proposal


def open_review(workspace: Workspace, proposal: Proposal) -> None:
    reviewing = Reviewing(workspace.session.alignment, proposal)
    workspace.run_worker(flows.review(workspace, reviewing, "nothing"))


async def in_workspace(pilot: Pilot[object]) -> Workspace:
    await until(pilot, lambda: isinstance(pilot.app.screen, Workspace))
    await pilot.pause()
    assert isinstance(pilot.app.screen, Workspace)
    return pilot.app.screen


def said(workspace: Workspace) -> str:
    return "".join(segment.text for segment in workspace.query_one(Status).render_line(0))


def screen_text(pilot: Pilot[object]) -> str:
    """The screen line by line, as the terminal shows it."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def shows(pilot: Pilot[object], kind: type) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    await pilot.pause()
