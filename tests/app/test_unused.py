"""Entries on the bench that nobody accounts for: seen, found, accepted, taken back."""

from __future__ import annotations

from pathlib import Path

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.session.saved_mapping import Offered, offered
from s2p_tui.session.session import Session
from tests.helpers.running_app import Opened
from tests.helpers.sessions import make_session


def gammas(count: int = 3) -> Session:
    """Rows that fit; on the bench a counter and layer scales."""
    entries = [Entry(f"fc{n}", (4,), "float32") for n in range(2)]
    entries.append(Entry("num_batches_tracked", (), "int64"))
    entries += [Entry(f"blocks.{n}.gamma", (4,), "float32") for n in range(count)]
    leaves = [Leaf(f".fc{n}", (4,), "float32") for n in range(2)]
    return make_session(entries, leaves)


def texts(workspace: Workspace, name: str) -> str:
    return "\n".join(workspace.query_one(f"#{name}", Lines).texts)


def line(workspace: Workspace, index: int) -> str:
    """A line of the list as it is drawn."""
    return workspace.view._line.draw(index, 60).text


async def test_an_unused_entry_blocks_until_y_accepts_it(opened: Opened) -> None:
    async with opened(gammas(1)) as (pilot, workspace):
        assert "?" not in line(workspace, 2)
        assert "(bench ×2)" in line(workspace, 2)
        assert "?  (bench)" in line(workspace, 3)
        assert "1 unused entry" in texts(workspace, "status")
        await pilot.press("n")
        assert workspace.cursor.index == 3
        await pilot.press("g", "c")
        assert workspace.cursor.index == 3
        assert "no leaf takes it (y accepts that)" in texts(workspace, "status")
        await pilot.press("y")
        assert workspace.session.alignment.accepted == {"blocks.0.gamma"}
        assert "·  (bench)" in line(workspace, 3)
        assert "Accepted as unused" in texts(workspace, "status")
        await pilot.press("n")
        assert "Every row lines up" in texts(workspace, "status")
        await pilot.press("y")
        assert workspace.session.alignment.accepted == set()
        await pilot.press("u", "u")
        assert len(workspace.session.unused.blocking) == 1
        await pilot.press("ctrl+r")
        assert workspace.session.is_complete


async def test_what_is_explained_needs_no_y(opened: Opened) -> None:
    async with opened(gammas(1)) as (pilot, workspace):
        await pilot.press("k", "y")
        assert workspace.cursor.index == 2
        assert "This entry does not block: a counter." in texts(workspace, "status")


async def test_a_folded_bench_is_accepted_at_once(opened: Opened) -> None:
    async with opened(gammas(12)) as (pilot, workspace):
        await pilot.press("G", "tab")
        assert workspace.cursor.is_block
        assert "?" in line(workspace, 2)
        await pilot.press("y")
        assert len(workspace.session.alignment.accepted) == 12
        assert "Accepted 12 entries as unused" in texts(workspace, "status")
        assert workspace.session.is_complete


async def test_the_mapping_remembers_it(opened: Opened, tmp_path: Path) -> None:
    async with opened(gammas(1)) as (pilot, workspace):
        await pilot.press("G", "y")
        workspace.session.save_mapping(tmp_path / "m.json")
    again = gammas(1)
    again.begin_from(tmp_path / "m.json")
    assert again.is_complete


async def test_what_was_accepted_is_resumed_with_its_undo(opened: Opened) -> None:
    async with opened(gammas(12)) as (pilot, workspace):
        await pilot.press("G", "y", "G", "k", "k", "y")
        left = workspace.session.alignment
    assert left.accepted == {"blocks.11.gamma", "blocks.9.gamma"}
    session = gammas(12)
    async with opened(session, resume="go on") as (pilot, workspace):
        assert session.alignment == left
        await pilot.press("u")
        assert session.alignment.accepted == {"blocks.11.gamma"}
        await pilot.press("u", "ctrl+y", "ctrl+y")
        assert session.alignment == left


async def test_a_mapping_that_accepts_more_is_offered(opened: Opened, tmp_path: Path) -> None:
    async with opened(gammas(1)) as (pilot, workspace):
        await pilot.press("G", "y")
        workspace.session.save_mapping(tmp_path / "m.json")
    found = offered(gammas(1), tmp_path / "m.json")
    assert isinstance(found, Offered)
    assert found.alignment.accepted == {"blocks.0.gamma"}


async def test_marked_entries_are_accepted_together_and_rows_apart(opened: Opened) -> None:
    async with opened(gammas(3)) as (pilot, workspace):
        await pilot.press("space", "space", "y")
        assert workspace.session.alignment.accepted == {"blocks.0.gamma", "blocks.1.gamma"}
        assert "Accepted 2 entries as unused" in texts(workspace, "status")
        await pilot.press("g", "space", "G", "space", "y")
        assert "not both" in texts(workspace, "status")
