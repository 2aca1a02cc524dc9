"""One key asks Claude: keys in, requests and screen out."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Label, OptionList

from s2p_tui.alignment.fit import Fit
from s2p_tui.app.screens.ask_claude import AskClaude, ChooseModel
from s2p_tui.app.screens.busy import WaitingForClaude
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import ConfirmQuit
from s2p_tui.app.screens.review import Review
from s2p_tui.app.widgets.line_list import LineList
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.proposals.claude import account
from s2p_tui.session.session import Session
from tests.app.reading import keys, shows, status
from tests.helpers.claude_server import KEY, Script, hangs, says
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import make_session, reordered
from tests.helpers.unlike import ANSWER, RIGHT_KEYS, unlike
from tests.proposals.claude.failures import LINES


def told(pilot: Pilot[object], where: str) -> str:
    return "\n".join(pilot.app.screen.query_one(where, Lines).texts)


def preview(pilot: Pilot[object]) -> str:
    """All lines of what would be sent."""
    shown = pilot.app.screen.query_one(LineList)
    lines = (shown._draw(n, 80) for n in range(shown.virtual_size.height))
    return "\n".join("".join(text for text, _ in line).strip() for line in lines)


def drawn(shown: LineList) -> str:
    """What is in sight of a list."""
    strips = map(shown.render_line, range(shown.size.height))
    return "".join(segment.text for strip in strips for segment in strip)


@pytest.mark.slow("drives the app through several screens")
async def test_from_the_key_to_the_accepted_rows(
    opened: Opened, script: Script, session: Session
) -> None:
    async with opened(session) as (pilot, workspace):
        before = session.alignment
        await pilot.press("p")
        await shows(pilot, AskClaude)
        assert script.received == []
        text = preview(pilot)
        assert "E1 alpha.w 4x4" in text
        assert "L4 .two.bias 4 (Linear)" in text
        assert "4 rows" in told(pilot, "#top")
        assert account.ALIASES["sonnet"] in told(pilot, "#cost")
        assert "tokens by estimate" in told(pilot, "#cost")
        assert "no numbers, no file names" in told(pilot, "#cost")
        await pilot.press("enter")
        await shows(pilot, Review)
        assert session.alignment is before
        assert "by Claude" in told(pilot, "#top")
        assert "they are named so" in told(pilot, "#change")
        assert "the matcher takes alpha.w, unsure" in told(pilot, "#change")
        await pilot.press("enter")
        await shows(pilot, Workspace)
        assert keys(workspace) == RIGHT_KEYS
        assert not session.blocking
        assert len(session.history) == 1
        assert "4 rows changed; u takes it back." in status(workspace)
        await pilot.press("u")
        assert session.alignment == before
        assert script.asked[0].json["model"] == account.ALIASES["sonnet"]


@pytest.mark.slow("drives the app through several screens")
async def test_the_preview_begins_alike_however_late_its_size_is_known(
    opened: Opened, script: Script
) -> None:
    seen: list[tuple[int, str]] = []
    for size in ((80, 24), (120, 14)):
        async with opened(make_session(*unlike(), arrange="auto"), size=size) as (pilot, _):
            await pilot.press("p")
            await shows(pilot, AskClaude)
            shown = pilot.app.screen.query_one(LineList)
            await until(pilot, lambda shown=shown: shown.current > 0)
            await pilot.resize_terminal(120, 14)
            await until(pilot, lambda shown=shown: shown.app.size == (120, 14))
            await pilot.pause()
            await pilot.pause()
            seen.append((shown.current, drawn(shown)))
    assert seen[0] == seen[1]
    assert script.received == []


@pytest.mark.slow("drives the app through several screens")
async def test_rejecting_changes_nothing(opened: Opened, script: Script, session: Session) -> None:
    async with opened(session) as (pilot, workspace):
        before = session.alignment
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, Review)
        await pilot.press("escape")
        await shows(pilot, Workspace)
        assert session.alignment is before
        assert "Rejected: nothing was changed." in status(workspace)
        assert len(script.asked) == 1


@pytest.mark.usefixtures("script")
@pytest.mark.slow("drives the app through several screens")
async def test_one_row_of_a_hunk_can_be_accepted(opened: Opened, session: Session) -> None:
    async with opened(session) as (pilot, workspace):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, Review)
        await pilot.press("r", "j", "space", "enter")
        await shows(pilot, Workspace)
        assert keys(workspace)[1] == "beta.b"
        assert session.alignment.rows[1].by == "claude"
        assert session.alignment.rows[0].by == "matcher"


async def test_nothing_is_sent_without_consent(
    opened: Opened, script: Script, session: Session
) -> None:
    async with opened(session) as (pilot, workspace):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("j", "pagedown", "G", "escape")
        await shows(pilot, Workspace)
        assert "Nothing was sent to Claude." in status(workspace)
        assert script.received == []


@pytest.mark.slow("drives the app through several screens")
async def test_settled_rows_are_not_asked_about_unless_the_user_insists(
    opened: Opened, script: Script
) -> None:
    async with opened(reordered()) as (pilot, workspace):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        assert "There is nothing to ask Claude, and nothing is sent." in preview(pilot)
        await pilot.press("enter")
        await shows(pilot, Workspace)
        assert script.received == []
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("i")
        await until(
            pilot, lambda: "L1 .lin{1..3}" in preview(pilot) or "L1 .lin1" in preview(pilot)
        )
        script.plays = [says('{"groups": []}')]
        await pilot.press("enter")
        await shows(pilot, Workspace)
        assert script.asked
        assert "Claude proposes no change." in status(workspace)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.slow("opens the app for each way of failing")
async def test_failure_is_one_line_and_the_app_goes_on(
    opened: Opened, script: Script, session: Session, name: str
) -> None:
    play, line = LINES[name]
    script.plays = [play]
    model = account.ALIASES["sonnet"]
    async with opened(session, size=(200, 30)) as (pilot, workspace):
        before = session.alignment
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, Workspace)
        assert line.replace("claude-haiku-5-5", model) in status(workspace)
        assert KEY not in status(workspace)
        assert session.alignment is before
        await pilot.press("j", "K")
        assert session.alignment is not before
        await pilot.press("u")
        script.plays = [ANSWER]
        await pilot.press("p")
        await shows(pilot, AskClaude)


async def test_no_key_is_said_before_anything_is_shown(
    opened: Opened, script: Script, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    async with opened(session) as (pilot, workspace):
        await pilot.press("p")
        await until(pilot, lambda: "ANTHROPIC_API_KEY is not set" in status(workspace))
        assert pilot.app.screen is workspace
        await pilot.press("j")
        assert script.received == []


async def test_an_answer_closes_no_question_that_lies_over_it(
    opened: Opened, script: Script, session: Session
) -> None:
    script.plays = [hangs(None)]
    async with opened(session) as (pilot, workspace):
        await pilot.press("J", "p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, WaitingForClaude)
        waiting = pilot.app.screen
        assert isinstance(waiting, WaitingForClaude)
        await pilot.press("ctrl+q")
        await shows(pilot, ConfirmQuit)
        waiting.job.cancel()
        await until(pilot, lambda: waiting.is_done)
        assert isinstance(pilot.app.screen, ConfirmQuit)
        await pilot.press("escape")
        await shows(pilot, Workspace)
        assert "cancelled" in status(workspace)


@pytest.mark.parametrize("begun", [None, '{"groups": ['])
@pytest.mark.slow("opens the app for every case")
async def test_hang_is_cancelled(
    opened: Opened, script: Script, session: Session, begun: str | None
) -> None:
    script.plays = [hangs(begun)]
    async with opened(session) as (pilot, workspace):
        before = session.alignment
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, WaitingForClaude)
        await until(pilot, script.hanging.is_set)
        # It is drawn by a clock, maybe after the question has come in.
        progress = pilot.app.screen.query_one("#progress", Label)
        await until(pilot, lambda: "777 tokens sent" in str(progress.content))
        await pilot.press("escape")
        await shows(pilot, Workspace)
        # It hangs still.
        assert not script.released.is_set()
        assert "Asking Claude was cancelled; nothing was changed." in status(workspace)
        assert session.alignment is before
        script.plays = [ANSWER]
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, Review)


@pytest.mark.usefixtures("script")
async def test_keys_typed_while_the_question_is_written_change_nothing(
    opened: Opened, session: Session
) -> None:
    async with opened(session) as (pilot, _):
        before = session.alignment
        await pilot.press("p", "J", "delete")
        await shows(pilot, AskClaude)
        assert session.alignment is before


@pytest.mark.slow("drives the app through several screens")
async def test_model_is_chosen_from_the_list_and_remembered(
    opened: Opened, script: Script, session: Session
) -> None:
    script.models = [
        {"type": "model", "id": "claude-next-7", "display_name": "Claude Next 7",
         "created_at": "2026-10-01T00:00:00Z", "lifecycle": "active"},
        {"type": "model", "id": "claude-old-1", "display_name": "Claude Old 1",
         "created_at": "2026-10-01T00:00:00Z", "lifecycle": "deprecated",
         "retires_at": "2027-01-02T00:00:00Z"},
        {"type": "model", "id": "claude-gone", "display_name": "Gone",
         "created_at": "2020-10-01T00:00:00Z", "lifecycle": "retired"},
    ]  # fmt: skip
    async with opened(session) as (pilot, _):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("m")
        await shows(pilot, ChooseModel)
        options = pilot.app.screen.query_one(OptionList)
        await until(pilot, lambda: options.option_count == len(account.ALIASES) + 2)
        shown = [str(options.get_option_at_index(n).prompt) for n in range(options.option_count)]
        assert shown[0].split() == ["haiku", "→", account.ALIASES["haiku"]]
        assert shown[-2:] == [
            "claude-next-7  Claude Next 7",
            "claude-old-1  Claude Old 1, retires 2027-01-02",
        ]
        assert [one.method for one in script.received] == ["GET"]
        options.highlighted = len(account.ALIASES)
        await pilot.press("enter")
        await shows(pilot, AskClaude)
        assert "claude-next-7" in told(pilot, "#cost")
        await pilot.press("enter")
        await shows(pilot, Review)
        assert script.asked[0].json["model"] == "claude-next-7"
        await pilot.press("escape")
        await shows(pilot, Workspace)
        await pilot.press("p")
        await shows(pilot, AskClaude)
        assert "claude-next-7" in told(pilot, "#cost")


@pytest.mark.usefixtures("script")
@pytest.mark.slow("drives the app through several screens")
async def test_any_id_can_be_typed_and_a_retired_one_is_warned_of(
    opened: Opened, session: Session
) -> None:
    async with opened(session, size=(120, 30)) as (pilot, _):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("m")
        await shows(pilot, ChooseModel)
        await pilot.press("tab")
        pilot.app.screen.query_one(Input).value = "no such !"
        await pilot.press("enter")
        remark = pilot.app.screen.query_one("#why", Label)
        assert "'no such !' is no model. Give haiku" in str(remark.content)
        pilot.app.screen.query_one(Input).value = "claude-sonnet-4-20250514"
        await pilot.press("enter")
        await shows(pilot, AskClaude)
        warning = "claude-sonnet-4-20250514 is deprecated and retired by June 15th, 2026."
        await until(pilot, lambda: warning in told(pilot, "#status"))
        await pilot.press("enter")
        await shows(pilot, Review)


@pytest.mark.usefixtures("script")
@pytest.mark.slow("drives the app through several screens")
async def test_list_that_cannot_be_had_is_said(
    opened: Opened, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(session, size=(120, 30)) as (pilot, _):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        monkeypatch.delenv("ANTHROPIC_API_KEY")
        await pilot.press("m")
        await shows(pilot, ChooseModel)
        remark = pilot.app.screen.query_one("#why", Label)
        await until(pilot, lambda: "list cannot be had" in str(remark.content))
        await pilot.press("escape")
        await shows(pilot, AskClaude)


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (200, 60)])
@pytest.mark.usefixtures("script")
@pytest.mark.slow("opens the app for every case")
async def test_question_is_read_at_any_size(
    opened: Opened, session: Session, size: tuple[int, int]
) -> None:
    async with opened(session, size=size) as (pilot, _):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        shown = pilot.app.screen.query_one(LineList)
        assert shown.size.height > 2
        # The user's own names are in sight first, whatever stands before them.
        await until(pilot, lambda: "Entries of the state dict" in drawn(shown))
        await pilot.press("G")
        await until(pilot, lambda: "L4 .two.bias" in drawn(shown))


@pytest.mark.usefixtures("script")
async def test_p_is_offered(opened: Opened, session: Session) -> None:
    async with opened(session) as (pilot, workspace):
        assert "p Claude" in told(pilot, "#bottom")
        await pilot.press("p")
        await shows(pilot, AskClaude)
        assert "Enter send" in told(pilot, "#bottom")
        await pilot.press("enter")
        await shows(pilot, Review)
        await pilot.press("enter")
        await shows(pilot, Workspace)
        details = told(pilot, "#details")
        assert "by Claude: they are named so" in details
        verdict = workspace.session.verdict(0)
        assert verdict is not None
        assert verdict.fit is Fit.EXACT
