"""A long list is drawn by order first; what the matcher finds comes when it is ready."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from s2p_tui.alignment.evidence import as_suggested
from s2p_tui.alignment.fit import Fit
from s2p_tui.app.screens.main import Workspace
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.session import opening
from s2p_tui.session.session import Session
from tests.app.pairs import BY_NAME, BY_ORDER, soon
from tests.app.reading import keys, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import reordered


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds the matcher back until it is set; every list counts as long."""
    event = threading.Event()
    match = opening.evidence_of

    def slow(*ends):
        assert event.wait(300)
        return match(*ends)

    monkeypatch.setattr(opening, "evidence_of", slow)
    monkeypatch.setattr(opening, "_MATCHED_AT_ONCE", 0)
    yield event
    event.set()


async def matched(pilot, workspace: Workspace) -> None:
    await until(pilot, lambda: not workspace.session.awaits_evidence)
    await pilot.pause()


async def test_rows_by_order_give_way_to_what_was_found(
    opened: Opened, go: threading.Event
) -> None:
    async with opened(soon()) as (pilot, workspace):
        assert keys(workspace) == BY_ORDER
        assert "Matching by names and structure" in status(workspace)
        go.set()
        await matched(pilot, workspace)
        assert keys(workspace) == BY_NAME
        assert "Lined up by names and structure" in status(workspace)
        assert not workspace.has_unsaved_edits
        assert not len(workspace.session.history)
        assert workspace.session.counts[Fit.EXACT] == 6


async def test_rows_the_user_has_touched_stay(opened: Opened, go: threading.Event) -> None:
    async with opened(soon()) as (pilot, workspace):
        await pilot.press("J")
        touched = keys(workspace)
        go.set()
        await matched(pilot, workspace)
        assert keys(workspace) == touched
        assert "your rows stay" in status(workspace)
        assert workspace.session.counts[Fit.DOUBTFUL] or workspace.session.blocking


@pytest.mark.parametrize("key", ["c", "a"])
async def test_nothing_is_converted_before_it_is_known_what_is_doubtful(
    opened: Opened, go: threading.Event, key: str
) -> None:
    async with opened(soon()) as (pilot, workspace):
        await pilot.press(key)
        assert pilot.app.screen is workspace
        assert "Matching is still running" in status(workspace)
        go.set()
        await matched(pilot, workspace)


@pytest.mark.parametrize("before", [[], ["J"]])
@pytest.mark.slow("opens the app for every case")
async def test_the_journal_begins_with_what_is_on_the_screen(
    opened: Opened, go: threading.Event, before: list[str]
) -> None:
    async with opened(soon()) as (pilot, workspace):
        await pilot.press(*before)
        go.set()
        await matched(pilot, workspace)
        await pilot.press("j", "J")
        left = workspace.session
        await pilot.press("ctrl+q", "y")
        await until(pilot, lambda: not pilot.app.is_running)
    async with opened(soon(), resume="go on") as (pilot, workspace):
        assert workspace.session.alignment == left.alignment
        await matched(pilot, workspace)
        assert workspace.session.alignment == left.alignment
        await pilot.press(*"u" * (1 + len(before)))
        assert keys(workspace) == (BY_ORDER if before else BY_NAME)


def test_what_is_taken_over_is_what_opening_with_patience_gives(go: threading.Event) -> None:
    go.set()
    session = soon()
    assert session.take_evidence(session.gather_evidence())
    patient = Session.between(session.checkpoint, session.target)
    assert session.alignment == patient.alignment
    assert session.evidence is not None
    wanted = as_suggested(session.evidence, session.checkpoint.state_dict, session.target.skeleton)
    assert session.alignment == wanted


async def test_entries_held_twice_are_found_beside_the_rows(
    opened: Opened, go: threading.Event
) -> None:
    ends = reordered(None)
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    held = {key: ends.checkpoint.tensors.read(key, region) for key, region in (
        (e.key, tuple((0, size) for size in e.shape)) for e in ends.checkpoint.state_dict
    )}  # fmt: skip
    again = held | {"lin1.weight": weight, "head.weight": weight.copy()}
    session = Session.between(checkpoint_in_memory(again), ends.target, soon=True)
    async with opened(session) as (pilot, workspace):
        assert [one.key for one in session.unused.blocking_entries()] == ["head.weight"]
        go.set()
        await matched(pilot, workspace)
        assert keys(workspace) == BY_NAME
        assert session.is_complete
