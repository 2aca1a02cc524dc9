"""Keys in; session and screen out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual import events

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.transform import Constant
from s2p_tui.app.keys import GROUPS
from s2p_tui.app.paths import completed, typed_path
from s2p_tui.app.screens.convert import obstacle
from s2p_tui.app.screens.help import Help, help_text
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.theme import UNICODE
from s2p_tui.app.widgets.lines import Lines
from tests.app.pairs import layers
from tests.app.reading import bench, footer, keys, status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import fitting, linears, make_session


async def test_starts_on_the_first_row_that_blocks(opened: Opened) -> None:
    async with opened(linears()) as (_, workspace):
        assert [workspace.session.verdict(i).fit for i in range(6)] == [
            Fit.MISMATCHED,
            Fit.MISMATCHED,
            Fit.DOUBTFUL,
            Fit.EXACT,
            Fit.GAP,
            Fit.TRANSFORMED,
        ]
        assert workspace.cursor.index == 0
        assert "3 rows of 6 to line up, 1 unused entry." in status(workspace)


@pytest.mark.parametrize(
    ("pressed", "position"),
    [
        ("down", 1),
        ("j", 1),
        ("j j up", 1),
        ("j j k", 1),
        ("k", 0),
        ("G", 6),
        ("end", 6),
        ("G g", 0),
        ("end home", 0),
        ("G j", 6),
        ("4 enter", 3),
        ("4 G", 3),
        ("1 0 backspace enter", 0),
        ("4 escape enter", 0),
        ("9 enter", 0),
        ("n", 1),
        ("n n", 2),
        ("n n n", 6),
        ("n n n n", 0),
        ("N", 6),
        ("N N", 2),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_cursor_goes(opened: Opened, pressed: str, position: int) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press(*pressed.split())
        assert workspace.cursor.index == position
        assert not workspace.cursor.typed


@pytest.mark.parametrize(
    ("pressed", "rows"),
    [
        ("pagedown", 1.0),
        ("ctrl+f", 1.0),
        ("ctrl+d", 0.5),
        ("ctrl+d ctrl+d", 1.0),
        ("pagedown pageup", 0.0),
        ("pagedown ctrl+b", 0.0),
        ("ctrl+d ctrl+u", 0.0),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_pages(opened: Opened, pressed: str, rows: float) -> None:
    async with opened(fitting(200)) as (pilot, workspace):
        height = workspace.view.size.height // 2 * 2
        await pilot.press(*pressed.split())
        assert workspace.cursor.index == int(rows * height)


@pytest.mark.slow("drives the app through many screens")
async def test_cursor_scrolls_by_half_a_page_at_the_edge(opened: Opened) -> None:
    async with opened(fitting(200)) as (pilot, workspace):
        height = workspace.view.size.height
        await pilot.press(*"j" * (height - 1))
        assert workspace.view.scroll_offset.y == 0
        await pilot.press("j")
        assert workspace.view.scroll_offset.y == height - height // 2
        await pilot.press("G")
        assert workspace.view.scroll_offset.y == 200 - height


@pytest.mark.parametrize("down", ["J", "shift+down", "alt+down"])
async def test_entry_moves_down_and_cursor_follows(opened: Opened, down: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press(down)
        assert keys(workspace) == ["b", "a", "c", "d", ".", "e"]
        assert workspace.cursor.index == 1
        assert workspace.session.verdict(0).fit is Fit.EXACT


@pytest.mark.parametrize("up", ["K", "shift+up", "alt+up"])
async def test_entry_moves_up_past_a_scalar(opened: Opened, up: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("6", "enter", up)
        assert keys(workspace) == ["a", "b", "c", "e", ".", "d"]
        assert workspace.cursor.index == 3


@pytest.mark.parametrize(
    ("pressed", "reason"),
    [
        ("K", "first row already"),
        ("6 enter J", "last row already"),
        ("5 enter J", "Python scalar"),
        ("G J", "benched"),
        ("5 enter m", "nothing to pick up"),
        ("5 enter delete", "nothing to send"),
        ("G delete", "on the bench already"),
        ("G s", "belongs to a leaf"),
        ("y", "Only a doubtful row"),
        ("x", "Pick an entry up first"),
        ("m enter", "here already"),
        ("m 5 enter", "Python scalar"),
        ("m 9 enter", "no row 9"),
        ("m J", "down first"),
        ("m s", "down first"),
        ("G m enter", "on the bench already"),
        ("u", "nothing to undo"),
        ("ctrl+y", "nothing to redo"),
        ("9 G", "no row 9"),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_what_cannot_be_done_says_why(opened: Opened, pressed: str, reason: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        before = workspace.session.alignment
        await pilot.press(*pressed.split())
        assert workspace.session.alignment is before
        assert reason in status(workspace)


@pytest.mark.parametrize(
    ("pressed", "reason"),
    [
        ("2 enter J", "stays where it is: torch calls it different"),
        ("2 enter s", "filled by its layer's rule"),
        ("2 enter m", "nothing to pick up"),
        ("2 enter delete", "nothing to send"),
        ("m j enter", "Row 2 takes no entry: torch calls it different"),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_row_that_a_layer_rule_fills_stays(opened: Opened, pressed: str, reason: str) -> None:
    session = fitting(3)
    made = Row(Constant(1.0, (2, 2)), by="rule", why="torch calls it different", fixed=True)
    session.edit(SetRows(((1, made),)))
    async with opened(session) as (pilot, workspace):
        before = session.alignment
        await pilot.press("g", *pressed.split())
        assert session.alignment is before
        assert reason in status(workspace)


async def test_marked_rows_around_a_fixed_row_keep_their_order_downwards(opened: Opened) -> None:
    session = fitting(4)
    session.edit(SetRows(((1, Row(Constant(1.0, (2, 2)), by="rule", why="so", fixed=True)),)))
    async with opened(session) as (pilot, workspace):
        await pilot.press("g", "space", "j", "space", "J")
        assert keys(workspace) == ["layer3", ".", "layer0", "layer2"]
        assert workspace.cursor.marked() == [2, 3]


async def test_marked_block_moves_and_stays_marked(opened: Opened) -> None:
    async with opened(fitting(5)) as (pilot, workspace):
        await pilot.press("space", "space", "J")
        assert keys(workspace) == ["layer2", "layer0", "layer1", "layer3", "layer4"]
        assert workspace.cursor.marked() == [1, 2]
        await pilot.press("J", "K", "K")
        assert keys(workspace) == [f"layer{i}" for i in range(5)]
        assert workspace.cursor.marked() == [0, 1]


async def test_separate_marked_rows_move_as_one_edit(opened: Opened) -> None:
    async with opened(fitting(5)) as (pilot, workspace):
        await pilot.press("space", "j", "space", "J")
        assert keys(workspace) == ["layer1", "layer0", "layer3", "layer2", "layer4"]
        assert workspace.cursor.marked() == [1, 3]
        await pilot.press("u")
        assert keys(workspace) == [f"layer{i}" for i in range(5)]


async def test_marked_rows_around_a_scalar_keep_their_order(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("4", "enter", "space", "j", "space", "K")
        assert keys(workspace) == ["a", "b", "d", "e", ".", "c"]
        assert workspace.cursor.marked() == [2, 3]
        await pilot.press("J")
        assert keys(workspace) == ["a", "b", "c", "d", ".", "e"]


async def test_range_of_marks(opened: Opened) -> None:
    async with opened(fitting(6)) as (pilot, workspace):
        await pilot.press("j", "v", "j", "j")
        assert workspace.cursor.marked() == [1, 2, 3]
        assert "Marking 3 rows" in status(workspace)
        await pilot.press("space", "j")
        assert workspace.cursor.marked() == [1, 2, 3]
        await pilot.press("escape")
        assert workspace.cursor.marked() == []


async def test_a_range_ends_as_in_vim(opened: Opened) -> None:
    async with opened(fitting(6)) as (pilot, workspace):
        for end in ("v", "escape"):
            await pilot.press("g", "v", "j", end)
            assert workspace.cursor.marked() == []
        await pilot.press("g", "v", "j", "delete")
        assert keys(workspace)[:3] == ["-", "-", "layer2"]
        assert workspace.cursor.marked() == []


async def test_space_takes_a_mark_away(opened: Opened) -> None:
    async with opened(fitting(6)) as (pilot, workspace):
        await pilot.press("space", "k", "space")
        assert workspace.cursor.marked() == []
        assert workspace.cursor.index == 1


def signs_at(line: int, workspace: Workspace) -> str:
    return workspace.view.render_line(line).text[:3]


async def test_picked_up_entry_is_put_down_and_shifts(opened: Opened) -> None:
    async with opened(fitting(5)) as (pilot, workspace):
        await pilot.press("m", "j", "j")
        assert "Picked up layer0" in status(workspace)
        assert "put here" in footer(workspace)
        await pilot.press("enter")
        assert keys(workspace) == ["layer1", "layer2", "layer0", "layer3", "layer4"]
        assert workspace.cursor.index == 2
        assert workspace.cursor.picked is None


async def test_picked_up_entry_goes_to_a_typed_row(opened: Opened) -> None:
    async with opened(fitting(12)) as (pilot, workspace):
        await pilot.press("m", "1", "2")
        assert "to row 12" in status(workspace)
        await pilot.press("enter")
        assert keys(workspace)[11] == "layer0"
        assert workspace.cursor.index == 11


async def test_picked_up_entry_swaps(opened: Opened) -> None:
    async with opened(fitting(5)) as (pilot, workspace):
        await pilot.press("m", "j", "j")
        assert [line for line in range(5) if "›" in signs_at(line, workspace)] == [1, 3, 4]
        await pilot.press("x")
        assert keys(workspace) == ["layer2", "layer1", "layer0", "layer3", "layer4"]
        assert not any("›" in signs_at(line, workspace) for line in range(5))


@pytest.mark.parametrize("cancel", ["escape", "m"])
async def test_pick_up_is_cancelled(opened: Opened, cancel: str) -> None:
    async with opened(fitting(5)) as (pilot, workspace):
        await pilot.press("m", "j", cancel)
        assert workspace.cursor.picked is None
        await pilot.press("enter")
        assert not len(workspace.session.history)


async def test_benched_entry_is_placed(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        before = keys(workspace)
        await pilot.press("G", "m", "g", "enter")
        # Rows that line up are not pushed on unannounced.
        assert keys(workspace) == before
        assert "2 rows that line up, from row 4 on, would lose" in status(workspace)
        await pilot.press("enter")
        assert keys(workspace) == ["left.over", "a", "b", "c", ".", "d"]
        assert bench(workspace) == ("e",)
        await pilot.press("u")
        assert bench(workspace) == ("left.over",)


async def test_benched_entry_is_swapped_in(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("G", "m", "g", "x")
        assert keys(workspace) == ["left.over", "b", "c", "d", ".", "e"]
        assert bench(workspace) == ("a",)


@pytest.mark.parametrize("key", ["delete", "backspace"])
async def test_entry_goes_to_the_bench(opened: Opened, key: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press(key)
        assert keys(workspace) == ["-", "b", "c", "d", ".", "e"]
        assert bench(workspace) == ("left.over", "a")
        assert len(workspace.session) == workspace.view.virtual_size.height == 8


async def test_marked_entries_go_to_the_bench_together(opened: Opened) -> None:
    async with opened(fitting(4)) as (pilot, workspace):
        await pilot.press("space", "space", "delete")
        assert keys(workspace) == ["-", "-", "layer2", "layer3"]
        assert workspace.cursor.marked() == []
        await pilot.press("u")
        assert keys(workspace) == [f"layer{i}" for i in range(4)]


async def test_picked_up_entry_put_on_the_bench(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("m", "G", "enter")
        assert bench(workspace) == ("left.over", "a")


async def test_gap_opens_and_closes(opened: Opened) -> None:
    async with opened(fitting(3)) as (pilot, workspace):
        await pilot.press("s", "s")
        assert keys(workspace) == [".", "layer0", "layer1"]
        assert bench(workspace) == ("layer2",)
        await pilot.press("s", "s")
        assert keys(workspace) == ["layer0", "layer1", "layer2"]


async def test_a_gap_is_announced_where_rows_that_line_up_lose_their_entries(
    opened: Opened,
) -> None:
    async with opened(fitting(3)) as (pilot, workspace):
        before = workspace.session.alignment
        await pilot.press("2", "G", "s")
        assert workspace.session.alignment is before
        assert status(workspace).startswith(
            "2 rows that line up, from row 2 on, would lose their entries: s again does it."
        )
        # Another key takes it back, and so does another row.
        await pilot.press("k", "s")
        assert workspace.session.alignment is before
        assert "3 rows that line up, from row 1 on" in status(workspace)
        await pilot.press("j", "j", "s")
        assert "Row 3 lines up and would lose its entry: s again does it." in status(workspace)
        await pilot.press("s")
        assert keys(workspace) == ["layer0", "layer1", "."]


async def test_entries_flow_into_an_empty_row_and_no_further(opened: Opened) -> None:
    async with opened(fitting(5)) as (pilot, workspace):
        await pilot.press("4", "G", "delete", "2", "G", "s")
        assert "2 rows that line up, from row 2 on" in status(workspace)
        await pilot.press("s")
        assert keys(workspace) == ["layer0", ".", "layer1", "layer2", "layer4"]
        assert bench(workspace) == ("layer3",)
        assert status(workspace).startswith("2 entries moved down")
        await pilot.press("delete", "1", "G", "delete", "s")
        assert keys(workspace)[0] == "."
        assert len(workspace.session.history) == 4


async def test_gaps_in_marked_rows_are_one_step(opened: Opened) -> None:
    async with opened(fitting(4)) as (pilot, workspace):
        await pilot.press("space", "j", "space", "s", "s")
        assert keys(workspace) == [".", "layer0", ".", "layer1"]
        await pilot.press("s", "s")
        assert keys(workspace) == ["layer0", "layer1", "layer2", "layer3"]
        await pilot.press("u", "u")
        assert keys(workspace) == [f"layer{i}" for i in range(4)]


async def test_trust(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("3", "enter", "y")
        assert workspace.session.blocking == 2
        assert workspace.session.alignment.rows[2].trusted
        assert "Trusted." in status(workspace)
        assert workspace.cursor.index == 6
        await pilot.press("3", "enter", "y")
        assert workspace.session.blocking == 3
        assert workspace.cursor.index == 2


async def test_n_says_which_problem_it_is(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("g", "n", "n")
        assert workspace.cursor.index == 2
        assert "3 of 4 that block." in status(workspace)
        await pilot.press("n")
        assert "4 of 4 that block." in status(workspace)


async def test_enter_unfolds_a_folded_block(opened: Opened) -> None:
    async with opened(layers(200)) as (pilot, workspace):
        assert workspace.cursor.is_block
        await pilot.press("enter")
        assert workspace.view.line_count == 200


@pytest.mark.parametrize("undo", ["u", "ctrl+z"])
@pytest.mark.parametrize("redo", ["ctrl+y", "ctrl+r"])
@pytest.mark.slow("opens the app for every case")
async def test_undo_and_redo(opened: Opened, undo: str, redo: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("J", "G", undo)
        assert keys(workspace) == ["a", "b", "c", "d", ".", "e"]
        assert workspace.cursor.index == 0
        await pilot.press(redo)
        assert keys(workspace) == ["b", "a", "c", "d", ".", "e"]


@pytest.mark.slow("drives the app through many screens")
async def test_find_by_name_and_next_match(opened: Opened) -> None:
    async with opened(fitting(30)) as (pilot, workspace):
        await pilot.press("/", *"layer2")
        assert workspace.cursor.matches == (2, *range(20, 30))
        await pilot.press("enter")
        assert workspace.cursor.index == 2
        assert "/layer2: 1 of 11" in status(workspace)
        assert "next match" in footer(workspace)
        await pilot.press("n")
        assert workspace.cursor.index == 20
        await pilot.press("N", "N")
        assert workspace.cursor.index == 29
        await pilot.press("escape", "N")
        assert workspace.cursor.matches == ()
        assert workspace.cursor.index == 29
        assert "Every row lines up" in status(workspace)


@pytest.mark.parametrize(("query", "found"), [("2x3", (0, 1)), ("doubtful", (2,)), ("OVER", (6,))])
@pytest.mark.slow("opens the app for every case")
async def test_find_by_shape_and_status(opened: Opened, query: str, found: tuple[int, ...]) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("slash", *query)
        assert workspace.cursor.matches == found


@pytest.mark.slow("drives the app through many screens")
async def test_find_is_given_up_and_repeated(opened: Opened) -> None:
    async with opened(fitting(30)) as (pilot, workspace):
        await pilot.press("/", *"layer7", "escape")
        assert workspace.cursor.matches == ()
        assert workspace.focused is None
        await pilot.press("/", *"layer7", "enter", "escape", "/", "enter")
        assert workspace.cursor.matches == (7,)
        await pilot.press("j")
        assert workspace.cursor.index == 8


async def test_save_writes_the_mapping(opened: Opened, tmp_path) -> None:
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    async with opened(linears(), output=folder / "m.eqx") as (pilot, workspace):
        await pilot.press("J")
        assert workspace.has_unsaved_edits
        await pilot.press("ctrl+s")
        assert not workspace.has_unsaved_edits
        saved = json.loads((folder / "m.mapping.json").read_text())
        assert saved["bench"] == ["left.over"]
        assert "m.mapping.json" in status(workspace)


async def test_save_that_fails_is_told(opened: Opened, tmp_path) -> None:
    async with opened(linears(), mapping=tmp_path / "none" / "m.json") as (pilot, workspace):
        await pilot.press("J", "ctrl+s")
        assert workspace.has_unsaved_edits
        assert "none" in status(workspace)


async def test_details_come_and_go(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        details = workspace.query_one("#details", Lines)
        assert details.display
        assert "equinox.nn.Linear" in details.texts[1]
        assert "expected 4 (4 elements), got 2×3 (6)" in details.texts[2]
        await pilot.press("d")
        await pilot.pause()
        assert not details.display
        await pilot.press("d")
        await pilot.pause()
        assert details.display


async def test_help_lists_every_binding(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("?")
        assert isinstance(pilot.app.screen, Help)
        await pilot.press("j", "escape")
        assert pilot.app.screen is workspace
    words = help_text(UNICODE).plain
    for group in GROUPS.values():
        assert all(key.does in words for key in group if key.shown)
        assert group[0].shown


async def test_click_moves_the_cursor(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.click("#view", offset=(10, 3))
        assert workspace.cursor.index == 3


@pytest.mark.slow("drives the app through many screens")
async def test_nothing_at_all_can_be_looked_at(opened: Opened) -> None:
    async with opened(make_session((), ())) as (pilot, workspace):
        for group in GROUPS.values():
            for key in group:
                if key.keys and key.action not in ("app.ask_quit", "convert", "save"):
                    await pilot.press(key.keys.split(",")[0], "escape")
        assert pilot.app.screen is workspace
        assert not len(workspace.session.history)


async def test_a_click_on_a_hint_does_what_its_key_does(opened: Opened) -> None:
    async with opened(linears(), size=(120, 30)) as (pilot, workspace):
        await pilot.press("g")
        for words, index in (("next problem", 1), ("move", 2)):
            await pilot.click("#bottom", offset=(footer(workspace).index(words) + 1, 0))
            await pilot.pause()
            assert workspace.cursor.index == index
        await pilot.click("#bottom", offset=(footer(workspace).index("?"), 0))
        await pilot.pause()
        assert isinstance(pilot.app.screen, Help)


async def test_what_is_pasted_is_no_key(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        before = workspace.session.alignment
        pilot.app.post_message(events.Paste("sJyqGx\n"))
        await pilot.pause()
        assert workspace.session.alignment is before
        assert pilot.app.screen is workspace


async def test_an_output_that_is_read_or_of_another_format_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    assert "is read here" in obstacle(str(source), [source])
    for name in ("out.npz", "out.PT", "out.h5"):
        assert "another format" in obstacle(str(tmp_path / name))
    assert not obstacle(str(tmp_path / "model.v2"))


def test_typed_paths_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "first.eqx").touch()
    (tmp_path / "models" / "fir.eqx").touch()
    assert completed(f"{tmp_path}/mo") == f"{tmp_path}/models/"
    assert completed(f"{tmp_path}/models/f") == f"{tmp_path}/models/fir"
    assert completed(f"{tmp_path}/none") is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert completed("~/models/firs") == "~/models/first.eqx"
    assert typed_path(" ~/a.eqx ") == tmp_path / "a.eqx"
