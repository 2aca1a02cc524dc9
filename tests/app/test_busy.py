"""Proposals about long lists: keys while they are made, and the way out."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from textual.widgets import Label

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Take
from s2p_tui.app.screens.busy import Working
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import ConfirmQuit
from s2p_tui.app.screens.review import Review
from s2p_tui.proposals.proposal import Proposal
from s2p_tui.session.session import Session
from tests.app.reading import keys, reviewed, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import make_session

_LAYERS = 1200


class Held(Session):
    """A session whose matcher waits until it is let go."""

    let_go: threading.Event

    def match_proposal(self) -> Proposal:
        assert self.let_go.wait(300)
        return super().match_proposal()


def long() -> Session:
    """Two rows a layer, exchanged in the first of them."""
    names = [(n, name) for n in range(_LAYERS) for name in ("w", "b")]
    shapes = {"w": (2, 2), "b": (2,)}
    return make_session(
        (Entry(f"h.{n}.{name}", shapes[name], "float32") for n, name in names),
        (Leaf(f".h[{n}].{name}", shapes[name], "float32") for n, name in names),
        arrange="auto",
    )


@pytest.fixture
def held() -> Iterator[Held]:
    session = long()
    found = Held(session.checkpoint, session.target, session.alignment, evidence=session.evidence)
    found.let_go = threading.Event()
    yield found
    found.let_go.set()


@pytest.fixture
def exchanged(held: Held) -> Held:
    """As if only the order had lined up the first layer, whose entries are exchanged."""
    rows = (Row(Take("h.0.b")), Row(Take("h.0.w")))
    held.edit(SetRows(tuple(enumerate(rows))))
    return held


async def test_keys_typed_ahead_are_for_the_review(opened: Opened, exchanged: Held) -> None:
    async with opened(exchanged) as (pilot, workspace):
        await pilot.press("F", "a")
        assert isinstance(pilot.app.screen, Working)
        words = str(pilot.app.screen.query_one("#progress", Label).render())
        assert "Comparing the rows" in words
        await pilot.press("j", "enter")
        assert keys(workspace)[:2] == ["h.0.b", "h.0.w"]
        exchanged.let_go.set()
        await until(pilot, lambda: len(exchanged.history) == 2)
        assert keys(workspace)[:2] == ["h.0.w", "h.0.b"]
        assert "2 rows changed" in status(workspace)
        await pilot.press("u")
        assert keys(workspace)[:2] == ["h.0.b", "h.0.w"]


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
@pytest.mark.slow("opens the app for every case")
async def test_it_can_be_left(opened: Opened, held: Held, key: str) -> None:
    async with opened(held) as (pilot, workspace):
        await pilot.press("F", "J", "a", "enter", key)
        await until(pilot, lambda: pilot.app.screen is workspace)
        assert "Cancelled" in status(workspace)
        await pilot.press("j")
        held.let_go.set()
        await pilot.press("u")
        assert keys(workspace)[:2] == ["h.0.w", "h.0.b"]
        assert pilot.app.screen is workspace


@pytest.mark.slow("opens the app for every case")
async def test_it_ends_below_another_screen(opened: Opened, exchanged: Held) -> None:
    async with opened(exchanged) as (pilot, workspace):
        await pilot.press("F", "G", "K", "a", "ctrl+q")
        assert isinstance(pilot.app.screen, ConfirmQuit)
        exchanged.let_go.set()
        working = pilot.app.screen_stack[-2]
        assert isinstance(working, Working)
        await until(pilot, lambda: working.is_done)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Review))
        await pilot.press("escape")
        assert pilot.app.screen is workspace


async def test_a_bug_ends_in_the_status_line(
    opened: Opened, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Session) -> Proposal:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(Session, "match_proposal", fails)
    held.let_go.set()
    async with opened(held) as (pilot, workspace):
        await pilot.press("a")
        await until(pilot, lambda: "Unexpected RuntimeError: no such thing" in status(workspace))
        await pilot.press("F", "J")
        assert len(held.history) == 1


async def test_nothing_to_change_is_said(opened: Opened, held: Held) -> None:
    held.let_go.set()
    async with opened(held) as (pilot, workspace):
        await pilot.press("a")
        await until(pilot, lambda: "as the matcher would have it" in status(workspace))


@pytest.mark.slow("drives the app through several screens")
async def test_a_block_is_lifted_beside_the_keys(opened: Opened) -> None:
    session = long()
    async with opened(session) as (pilot, workspace):
        await pilot.press("F", "J", "L", "enter")
        await until(pilot, lambda: len(session.history) == 2)
        assert isinstance(pilot.app.screen, Workspace)
        for n in range(_LAYERS):
            row = session.alignment.rows[2 * n]
            assert row.source == Take(f"h.{n}.b")
        assert f"{2 * _LAYERS - 2:,} rows changed" in status(workspace)


@pytest.mark.slow("drives the app through several screens")
async def test_a_wider_lift_follows(opened: Opened) -> None:
    parts = [(n, k, p) for n in range(400) for k in range(3) for p in ("w", "b")]
    session = make_session(
        (Entry(f"h.{n}.e.{k}.{p}", (2, 2), "float32") for n, k, p in parts),
        (Leaf(f".h[{n}].e[{k}].{p}", (2, 2), "float32") for n, k, p in parts),
    )
    async with opened(session) as (pilot, _):
        await pilot.press("F", "J", "L")
        await until(pilot, lambda: isinstance(pilot.app.screen, Review))
        assert reviewed(pilot).reviewing.total == 4
        await pilot.press("L")
        await until(
            pilot,
            lambda: isinstance(screen := pilot.app.screen, Review) and screen.reviewing.total > 4,
        )
        await pilot.press("enter")
        await until(pilot, lambda: session.alignment.rows[6].source == Take("h.1.e.0.b"))
