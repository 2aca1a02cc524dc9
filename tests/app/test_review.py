"""The review screen: keys in; alignment, history and screen out."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Take
from s2p_tui.app.screens.review import Review
from s2p_tui.app.widgets.line_list import LineList
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.proposals.proposal import proposed
from tests.app.pairs import BY_NAME, BY_ORDER, SURE, blocks, hostile, swapping
from tests.app.reading import bench, keys, open_review, opened_on_a_swap, reviewed, shown, status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import make_session, reordered


def said(screen: Review) -> str:
    return screen.query_one("#status", Lines).texts[0].strip()


def about(screen: Review) -> str:
    return "\n".join(screen.query_one("#change", Lines).texts)


def everything(screen: Review) -> str:
    lines = "\n".join(text for lines in screen.query(Lines) for text in lines.texts)
    return "\n".join([lines, *shown(screen)])


async def test_old_and_new_are_side_by_side_and_only_where_they_differ(opened: Opened) -> None:
    async with opened(reordered("order"), size=(120, 30)) as (pilot, _):
        await pilot.press("a")
        title, first, *others = shown(reviewed(pilot))
        assert title.startswith(" [x] .lin1  2 rows, certain  the same name")
        assert first.split() == [
            *("▸", "[x]", ".lin1.weight"),
            *("?", "lin3.weight"),
            *("✓", "lin1.weight"),
            "certain",
        ]
        rows = [line.split()[1] for line in others]
        assert rows == [".lin1.bias", ".lin3", ".lin3.weight", ".lin3.bias"]


async def test_enter_takes_all_in_one_undo_step(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        await pilot.press("a", "enter")
        assert pilot.app.screen is workspace
        assert keys(workspace) == BY_NAME
        assert "4 rows changed" in status(workspace)
        assert len(workspace.session.history) == 1
        await pilot.press("u")
        assert keys(workspace) == BY_ORDER


@pytest.mark.parametrize("key", ["escape", "q", "ctrl+c"])
@pytest.mark.slow("opens the app for every case")
async def test_leaving_changes_nothing(opened: Opened, key: str) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        before = workspace.session.alignment
        await pilot.press("a", "space", key)
        assert pilot.app.screen is workspace
        assert workspace.session.alignment is before
        assert not len(workspace.session.history)
        assert "nothing was changed" in status(workspace)


async def test_accepting_a_part_says_what_it_empties_and_benches(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        opened_on_a_swap(workspace)
        await pilot.pause()
        screen = reviewed(pilot)
        assert said(screen).startswith("Nothing else changes.")
        assert said(screen).endswith("4 of 4 accepted")
        await pilot.press("space")
        assert "3 of 4 accepted" in said(screen)
        assert ".h[0].w left empty; h.1.w to the bench" in said(screen)
        await pilot.press("enter")
        assert keys(workspace) == ["-", "h.1.b", "h.0.w", "h.0.b", "h.2.w", "h.2.b"]
        assert bench(workspace) == ("h.1.w",)
        await pilot.press("u")
        assert keys(workspace) == [f"h.{n}.{k}" for n in range(3) for k in "wb"]


async def test_a_hunk_is_toggled_from_its_title_and_from_its_rows(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        opened_on_a_swap(workspace)
        await pilot.pause()
        screen = reviewed(pilot)
        assert screen.reviewing.here.change is not None
        await pilot.press("h")
        assert screen.reviewing.accepted == {2, 3}
        await pilot.press("n", "space")
        assert screen.reviewing.here.change is None
        assert screen.reviewing.accepted == set()
        assert "Nothing is accepted: Enter changes nothing." in said(screen)
        await pilot.press("N", "space", "j", "space")
        assert screen.reviewing.accepted == {1}
        boxes = [line.lstrip("▸ ")[:3] for line in shown(screen)[1:]]
        assert boxes == ["[-]", "[ ]", "[x]", "[ ]", "[ ]", "[ ]"]
        await pilot.press("enter")
        assert keys(workspace)[:4] == ["h.0.w", "h.1.b", "h.1.w", "-"]


async def test_with_nothing_accepted_enter_changes_nothing(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        await pilot.press("a", "r", "enter")
        assert keys(workspace) == BY_ORDER
        assert not len(workspace.session.history)


async def test_confidence_filters_what_is_shown_and_what_all_means(opened: Opened) -> None:
    async with opened(blocks()) as (pilot, workspace):
        opened_on_a_swap(workspace)
        await pilot.pause()
        screen = reviewed(pilot)

        def places() -> list[int]:
            return [line.change.index for line in screen.reviewing.lines if line.change]

        await pilot.press("r", "f")
        assert places() == [0, 3]
        assert "only certain shown" in said(screen)
        await pilot.press("a")
        assert screen.reviewing.accepted == {0, 3}
        await pilot.press("f")
        assert places() == [1]
        await pilot.press("f")
        assert places() == [2]
        await pilot.press("f")
        assert places() == [0, 1, 2, 3]
        await pilot.press("enter")
        assert keys(workspace)[:4] == ["h.1.w", "-", "-", "h.0.b"]


async def test_reason_objection_and_notes_are_shown(opened: Opened) -> None:
    async with opened(blocks(), size=(120, 30)) as (pilot, workspace):
        opened_on_a_swap(workspace)
        await pilot.pause()
        screen = reviewed(pilot)
        assert "certain, by Claude: row 2 says so" in about(screen)
        assert "but the matcher has another" in about(screen)
        assert "certain!" in shown(screen)[2]
        assert "proposed by Claude" in screen.query_one("#top", Lines).texts[0]
        await pilot.press("g")
        assert "an id was invented" in shown(screen)[0]
        assert "an id was invented" in about(screen)


@pytest.mark.slow("drives the app through several screens")
async def test_a_long_proposal_is_walked_and_accepted_in_part(opened: Opened) -> None:
    count = 3_000
    session = make_session(
        (Entry(f"h.{n}.w", (2,), "float32") for n in range(count)),
        (Leaf(f".h[{n}].w", (2,), "float32") for n in range(count)),
    )
    rows = session.alignment.rows
    wanted = [(n, Row(rows[count - 1 - n].source, by="matcher")) for n in range(count)]
    proposal = proposed("matcher", session.alignment, wanted, session.target.skeleton, {})
    async with opened(session) as (pilot, workspace):
        open_review(workspace, proposal)
        await pilot.pause()
        screen = reviewed(pilot)
        view = screen.query_one(LineList)
        drawn: list[int] = []
        draw = view._draw
        view._draw = lambda position, width: drawn.append(position) or draw(position, width)
        await pilot.press("G", "space", "pageup", "h", "k")
        await pilot.pause()
        assert len(screen.reviewing.lines) == 2 * count
        assert len(set(drawn)) < 4 * view.size.height
        assert len(screen.reviewing.accepted) == count - 2
        accepted = frozenset(screen.reviewing.accepted)
        await pilot.press("enter")
        for place in accepted:
            assert session.alignment.rows[place].source == Take(f"h.{count - 1 - place}.w")


@pytest.mark.parametrize(
    ("size", "ascii_only", "no_color"),
    [
        ((120, 40), False, False),
        ((80, 24), True, True),
        ((40, 10), True, True),
        ((20, 6), False, True),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_every_line_fits_any_screen(
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    ascii_only: bool,
    no_color: bool,
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    session = hostile()
    async with opened(session, size=size, ascii_only=ascii_only) as (pilot, workspace):
        open_review(workspace, swapping(session, (0, 4), (1, 7), sure=SURE))
        await pilot.pause()
        screen = reviewed(pilot)
        for key in ("j", "space", "n", "g", "r", "a", "f", "G"):
            await pilot.press(key)
            text = everything(screen)
            assert text.isascii() or not ascii_only
            assert "\x1b" not in text
            for row in pilot.app.screen._compositor.render_strips():
                assert row.cell_length == size[0]


async def test_a_small_screen_still_says_which_leaf_it_is(opened: Opened) -> None:
    async with opened(reordered("order"), size=(40, 10)) as (pilot, _):
        await pilot.press("a")
        screen = reviewed(pilot)
        line = next(line for line in shown(screen) if "lin1.weight" in line)
        assert line.index("lin3.weight") < line.index("lin1.weight")
        assert ".lin1.weight" in about(screen)


async def test_a_click_goes_to_a_line(opened: Opened) -> None:
    async with opened(reordered("order")) as (pilot, _):
        await pilot.press("a")
        screen = reviewed(pilot)
        await pilot.click(LineList, offset=(5, 4))
        assert screen.reviewing.line_number == 4
