"""Going on where an earlier session was left, in the app."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Label

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.app.screens.questions import GoOn
from s2p_tui.cli import run
from s2p_tui.session.journal import Journal
from s2p_tui.session.session import Session
from tests.app.reading import in_workspace, said
from tests.helpers.running_app import Opened, in_turn, make_app, until
from tests.helpers.sessions import fitting, linears, reordered


@asynccontextmanager
async def asked(session: Session) -> AsyncIterator[Pilot[object]]:
    app = make_app(session)
    async with app.run_test(size=(110, 30)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, GoOn))
        yield in_turn(pilot)


async def leave_edits(opened: Opened, *keys: str) -> Alignment:
    """What a session that ended after these keys came to."""
    session = linears()
    async with opened(session, resume="afresh") as (pilot, _):
        await pilot.press(*keys)
    return session.alignment


async def test_nothing_is_asked_the_first_time_or_without_edits(opened: Opened) -> None:
    for _ in range(2):
        async with opened(linears()) as (pilot, workspace):
            await pilot.press("j", "j")
            assert "journal" not in said(workspace)


@pytest.mark.parametrize("key", ["y", "enter"])
@pytest.mark.slow("opens the app for every case")
async def test_goes_on_with_undo_across_the_restart(opened: Opened, key: str) -> None:
    left = await leave_edits(opened, *"gjjygJGkssugjJ")
    session = linears()
    start = session.alignment
    async with asked(session) as pilot:
        first = str(pilot.app.screen.query(Label).first().content)
        today = time.strftime("%Y-%m-%d", time.localtime())
        assert first.startswith(f"This pair has 3 edits, the last on {today} ")
        await pilot.press(key)
        workspace = await in_workspace(pilot)
        assert session.alignment == left != start
        assert workspace.has_unsaved_edits
        assert "Resumed 3 edits" in said(workspace)
        await pilot.press("u", "u", "u", "u")
        assert session.alignment == start
        assert not workspace.has_unsaved_edits
        await pilot.press("ctrl+y", "ctrl+y", "ctrl+y")
        assert session.alignment == left


@pytest.mark.slow("drives the app through many screens")
async def test_starts_afresh_and_keeps_the_old_one_until_the_first_edit(opened: Opened) -> None:
    left = await leave_edits(opened, "J")
    session = linears()
    start = session.alignment
    async with asked(session) as pilot:
        await pilot.press("n")
        await in_workspace(pilot)
        assert session.alignment == start
    async with asked(linears()) as pilot:
        await pilot.press("n")
        await in_workspace(pilot)
        await pilot.press("s", "s")
    session = linears()
    async with asked(session) as pilot:
        await pilot.press("y")
        await in_workspace(pilot)
        assert session.alignment not in (left, start)


@pytest.mark.parametrize("key", ["escape", "q", "ctrl+c", "ctrl+q"])
@pytest.mark.slow("opens the app for every case")
async def test_leaving_the_question_leaves_everything_as_it_is(opened: Opened, key: str) -> None:
    left = await leave_edits(opened, "J")
    async with asked(linears()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: not pilot.app.is_running)
    assert pilot.app.return_code == 0
    session = linears()
    async with asked(session) as pilot:
        await pilot.press("y")
        await in_workspace(pilot)
        assert session.alignment == left


@pytest.mark.slow("drives the app through several screens")
async def test_answers_from_the_command_line(opened: Opened) -> None:
    left = await leave_edits(opened, "J")
    session = linears()
    async with opened(session, resume="go on"):
        assert session.alignment == left
    session = linears()
    async with opened(session, resume="afresh") as (_, workspace):
        assert session.alignment == linears().alignment
        assert "--resume still brings back 1 earlier edit" in said(workspace)
    async with opened(fitting(), resume="go on") as (_, workspace):
        assert "There were no edits to resume." in said(workspace)


async def test_a_match_is_journalled_as_one_edit(opened: Opened) -> None:
    session = reordered("order")
    async with opened(session) as (pilot, _):
        await pilot.press("a", "enter")
        await pilot.pause()
    assert len(session.history) == 1
    again = reordered("order")
    async with opened(again, resume="go on"):
        assert again.alignment == session.alignment
        assert again.blocking == session.blocking


async def test_the_second_app_on_a_pair_says_so_and_works(opened: Opened) -> None:
    holder = linears()
    journal = await asyncio.to_thread(Journal.open, holder.checkpoint, holder.target)
    session = linears()
    async with opened(session, size=(120, 30)) as (pilot, workspace):
        assert "Edits are not journalled: another s2p-tui is at work on" in said(workspace)
        await pilot.press("J")
        assert len(session.history) == 1
    journal.close()
    async with opened(linears()):
        pass


async def test_a_damaged_journal_is_said_and_not_applied(opened: Opened, state_home: Path) -> None:
    await leave_edits(opened, "J")
    path = next(state_home.rglob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"Move", b"Nove"))
    session = linears()
    async with opened(session, size=(200, 30)) as (_, workspace):
        assert "cannot be used: a line is not what its checksum says. It is kept" in said(workspace)
        assert session.alignment == linears().alignment


async def test_no_place_for_a_journal_is_no_hindrance(opened: Opened, state_home: Path) -> None:
    (state_home / "s2p-tui").write_text("a file")
    session = linears()
    async with opened(session) as (pilot, workspace):
        assert "Edits are not journalled: " in said(workspace)
        await pilot.press("J")
        assert len(session.history) == 1


async def test_what_was_made_with_other_files_is_named(opened: Opened) -> None:
    await leave_edits(opened, "J")
    session = linears()
    object.__setattr__(session.checkpoint, "label", "other[1].pt")
    async with asked(session) as pilot:
        first = str(pilot.app.screen.query(Label).first().content)
        assert first.endswith("They were made with model.pt and model_skeleton.eqx.")


@pytest.mark.parametrize(
    ("options", "resume"),
    [
        ([], "ask"),
        (["--resume"], "go on"),
        (["--fresh"], "afresh"),
        (["--mapping", "new.json"], "ask"),
        (["--mapping", "there.json"], "ask"),
        (["--mapping", "there.json", "--fresh"], "afresh"),
        (["--mapping", "there.json", "--resume"], "go on"),
    ],
)
def test_options_answer_beforehand(
    options: list[str], resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class App:
        fatal = return_code = None
        farewell = ""

        def __init__(self, *_: object, **options: object) -> None:
            given.append(options["resume"])

        def run(self, *, mouse: bool) -> None: ...

    (tmp_path / "there.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("s2p_tui.app.start.S2PApp", App)
    monkeypatch.setattr("s2p_tui.app.start.require_terminal", lambda _: None)
    assert run(["model.pt", "skeleton.eqx", *options]) == 0
    assert given == [resume]


def test_resume_and_fresh_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["model.pt", "skeleton.eqx", "--resume", "--fresh"]) == 2
    assert "contradict" in capsys.readouterr().err
