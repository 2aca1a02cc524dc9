"""What the matcher lines up, doubts and takes back: keys in; session and screen out."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from textual.pilot import Pilot

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Take
from s2p_tui.app.screens.convert import ConvertForm, Result
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.review import Review
from s2p_tui.app.theme import UNICODE
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.session.session import Session
from tests.app.pairs import BY_NAME, BY_ORDER
from tests.app.reading import bench, footer, keys, reviewed, shown, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import make_session, reordered, without_partner
from tests.models.linears import make_pair


def details(workspace: Workspace) -> list[str]:
    return [line.strip() for line in workspace.query_one("#details", Lines).texts]


def drawn(workspace: Workspace, row: int) -> str:
    """A row of the list as it is on the screen."""
    return "".join(segment.text for segment in workspace.view.render_line(row))


async def converted(pilot: Pilot[object], session: Session, output: Path) -> list[np.ndarray]:
    await pilot.press("c")
    await until(pilot, lambda: isinstance(pilot.app.screen, ConvertForm))
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, Result))
    await pilot.press("enter")
    like = [np.full(leaf.shape, 9, leaf.dtype) for leaf in session.target.skeleton]
    return [np.asarray(leaf) for leaf in eqx.tree_deserialise_leaves(output, like)]


async def test_first_guess_is_the_matchers(opened: Opened, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    async with opened(Session.open(pair.model, pair.skeleton)) as (_, workspace):
        assert [entry.key for entry in workspace.session.checkpoint.state_dict] == BY_ORDER
        assert keys(workspace) == BY_NAME
        assert "Every row lines up" in status(workspace)
        assert "lin1.weight" in drawn(workspace, 0)
        assert ".lin1.weight" in drawn(workspace, 0)
        assert "by the matcher: " in details(workspace)[-1]
        assert not workspace.has_unsaved_edits


async def test_a_lines_up_again_in_one_step(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        assert keys(workspace) == BY_ORDER
        await pilot.press("J", "delete")
        before = workspace.session.alignment
        edits = len(workspace.session.history)
        await pilot.press("a")
        assert isinstance(pilot.app.screen, Review)
        assert workspace.session.alignment == before
        await pilot.press("enter")
        assert keys(workspace) == BY_NAME
        assert bench(workspace) == ()
        assert not workspace.session.blocking
        assert len(workspace.session.history) == edits + 1
        assert "u takes it back" in status(workspace)
        await pilot.press("u")
        assert workspace.session.alignment == before
        await pilot.press("ctrl+y")
        assert keys(workspace) == BY_NAME


async def test_a_keeps_rows_that_were_trusted(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        before = keys(workspace)
        await pilot.press("g", "y", "n", "y", "n", "y", "n", "y")
        assert not workspace.session.blocking
        await pilot.press("a", "a", "enter")
        assert pilot.app.screen is workspace
        assert keys(workspace) == before
        assert not workspace.session.blocking


@pytest.mark.slow("drives the app through several screens")
async def test_a_undoes_what_was_decided_only_where_it_is_ticked(opened: Opened) -> None:
    async with opened(reordered(), size=(120, 30)) as (pilot, workspace):
        await pilot.press("g", "m", "3", "G", "x")
        decided = keys(workspace)
        assert decided != BY_NAME
        await pilot.press("a")
        title, *lines = shown(reviewed(pilot))
        assert title.startswith(" [ ] what you decided  2 rows, certain  names and structure speak")
        assert [line.lstrip(" ▸")[:3] for line in lines] == ["[ ]", "[ ]"]
        await pilot.press("a", "enter")
        assert keys(workspace) == decided
        await pilot.press("a", "h", "enter")
        assert keys(workspace) == BY_NAME
        await pilot.press("u")
        assert keys(workspace) == decided


async def test_a_leaves_trust_in_what_the_matcher_would_have_too(opened: Opened) -> None:
    async with opened(without_partner()) as (pilot, workspace):
        await pilot.press("2", "enter", "y")
        assert not workspace.session.blocking
        await pilot.press("a")
        assert pilot.app.screen is workspace
        assert "as the matcher would have it" in status(workspace)
        assert not workspace.session.blocking


async def test_a_with_nothing_to_do_is_no_edit(opened: Opened) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("a")
        assert "as the matcher would have it" in status(workspace)
        assert not len(workspace.session.history)


async def test_a_needs_no_evidence_beforehand(opened: Opened) -> None:
    known = reordered("order")
    session = Session(known.checkpoint, known.target)
    async with opened(session) as (pilot, workspace):
        assert not session.blocking
        await pilot.press("a", "enter")
        assert keys(workspace) == BY_NAME


async def test_a_is_offered(opened: Opened) -> None:
    async with opened(reordered()) as (_, workspace):
        assert "a match" in footer(workspace)


@pytest.mark.slow("drives the app through several screens")
async def test_doubt_by_names_is_shown_with_its_reason_and_trusted(
    opened: Opened, tmp_path: Path
) -> None:
    session, output = reordered("order"), tmp_path / "m.eqx"
    async with opened(session, output=output) as (pilot, workspace):
        doubtful = UNICODE.fits[Fit.DOUBTFUL]
        signs = [doubtful in drawn(workspace, row) for row in range(6)]
        assert signs == [True, True, False, False, True, True]
        reason = "by name and structure lin1.weight belongs here"
        assert f"{doubtful} doubtful: {reason}" in details(workspace)
        await pilot.press("c")
        await pilot.pause()
        assert pilot.app.screen is workspace
        assert f"Row 1: {reason} (y trusts it). And 3 other rows." in status(workspace)
        await pilot.press("y", "g")
        assert session.blocking == 3
        assert "by order, trusted" in details(workspace)[-1]
        assert UNICODE.trusted in drawn(workspace, 0)
        assert f"{doubtful}3 ✓*1 ✓2" in status(workspace)
        await pilot.press("n", "y", "y", "y")
        assert not session.blocking
        leaves = await converted(pilot, session, output)
        assert [leaf.tolist() for leaf in leaves] == [[[0, 1], [2, 3]], [0, 1]] * 3
        assert [row.source for row in session.alignment.rows] == [Take(key) for key in BY_ORDER]


async def test_row_put_right_is_not_doubted(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        await pilot.press("g", "m", "5", "x")
        assert workspace.session.blocking == 2
        assert [workspace.session.verdict(row).fit for row in (0, 4)] == [Fit.EXACT, Fit.EXACT]


async def test_row_the_user_puts_against_names_is_doubted(opened: Opened) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("m", "3", "x")
        assert workspace.session.alignment.rows[0].by == "user"
        assert workspace.session.verdict(0).fit is Fit.DOUBTFUL
        assert workspace.session.blocking == 2


async def test_leaf_without_partner_blocks_until_trusted(opened: Opened, tmp_path: Path) -> None:
    session, output = without_partner(), tmp_path / "m.eqx"
    async with opened(session, output=output) as (pilot, workspace):
        assert workspace.cursor.index == 1
        assert keys(workspace) == ["lin1.weight", ".", "lin2.weight", "lin2.bias"]
        assert UNICODE.fits[Fit.DOUBTFUL] in drawn(workspace, 1)
        reason = "has no such entry: it would keep the skeleton's value"
        assert sum(reason in line for line in details(workspace)) == 1
        assert details(workspace)[-1] == "row 2, by the matcher"
        await pilot.press("c")
        await pilot.pause()
        assert pilot.app.screen is workspace
        assert reason in status(workspace)
        await pilot.press("y")
        assert not session.blocking
        leaves = await converted(pilot, session, output)
        assert leaves[1].tolist() == [0, 0]
        assert leaves[2].tolist() == [[0, 1], [2, 3], [4, 5]]


async def test_gap_of_the_users_own_is_not_doubted(opened: Opened) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("G", "s", "s")
        assert workspace.session.verdict(5).fit is Fit.GAP
        assert not workspace.session.blocking


def long_names() -> Session:
    names = [f"encoder.layers.{n}.attention.output.projection.weight" for n in (1, 0)]
    owner = "equinox.nn.Linear"
    return make_session(
        (Entry(name, (2, 2), "float32") for name in names),
        (Leaf(f".{name}", (2, 2), "float32", owner=owner) for name in reversed(names)),
        arrange="order",
    )


@pytest.mark.parametrize("width", [80, 120])
async def test_long_reason_is_shown_whole(opened: Opened, width: int) -> None:
    session = long_names()
    async with opened(session, size=(width, 30)) as (_, workspace):
        reason = session.verdict(0).why
        assert len(reason) > 80
        assert reason in " ".join(details(workspace))
