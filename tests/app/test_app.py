"""Opening, failing, quitting, signals; and what is imported before the first frame."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from textual.widgets import Input, Label, OptionList

from s2p_tui.app.screens.busy import Converting
from s2p_tui.app.screens.convert import Result
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import ConfirmQuit, Reading, WhichStateDict
from s2p_tui.app.start import S2PApp
from s2p_tui.errors import AmbiguousStateDictError, InputError
from s2p_tui.session.session import Session
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import fitting, linears

HEAVY = ("numpy", "torch", "jax", "equinox", "anthropic", "ml_dtypes")


def app_for(open_session) -> S2PApp:
    return S2PApp(
        open_session,
        model_label="a\x1bb.pt",
        skeleton_label="sk.eqx",
        output=Path("out.eqx"),
    )


def heavy_modules_after(code: str) -> str:
    code += f"\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_app_imports_nothing_heavy() -> None:
    assert heavy_modules_after("import s2p_tui.app.start") == ""


@pytest.mark.slow("starts a program")
def test_heavy_imports_would_be_noticed() -> None:
    assert heavy_modules_after("import s2p_tui.app.start, s2p_tui.session.session") != ""


async def test_says_what_it_reads_until_it_is_read() -> None:
    go = threading.Event()

    def slow(_: str | None) -> Session:
        assert go.wait(300)
        return fitting()

    app = app_for(slow)
    async with app.run_test() as pilot:
        assert isinstance(app.screen, Reading)
        assert str(app.screen.query_one(Label).content) == "reading a\\x1bb.pt and sk.eqx …"
        go.set()
        await until(pilot, lambda: isinstance(app.screen, Workspace))


@pytest.mark.parametrize("key", ["q", "escape", "ctrl+c", "ctrl+q"])
async def test_reading_can_be_left(key: str) -> None:
    go = threading.Event()

    def slow(_: str | None) -> Session:
        go.wait(300)
        return fitting()

    app = app_for(slow)
    async with app.run_test() as pilot:
        await pilot.press(key)
        await pilot.pause()
        assert not app.is_running
        go.set()
    assert app.return_value is None


async def test_unreadable_input_ends_the_app_with_its_exit_code() -> None:
    error = InputError("It is broken.", "Mend it.")

    def fail(_: str | None) -> Session:
        raise error

    app = app_for(fail)
    async with app.run_test() as pilot:
        await until(pilot, lambda: not app.is_running)
    assert app.fatal is error
    assert app.return_code == 4


async def test_asks_which_state_dict() -> None:
    asked: list[str | None] = []

    def open_session(key: str | None) -> Session:
        asked.append(key)
        if key is None:
            meanings = {"ema": "a moving average of the weights"}
            choices = [("model[b]", 3), ("ema", 3)]
            raise AmbiguousStateDictError("Several.", choices, meanings=meanings)
        return fitting()

    app = app_for(open_session)
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, WhichStateDict))
        options = app.screen.query_one(OptionList)
        shown = [str(options.get_option_at_index(number).prompt) for number in range(2)]
        assert shown == ["model[b]  3 tensors", "ema  3 tensors  a moving average of the weights"]
        await pilot.press("j", "enter")
        await until(pilot, lambda: isinstance(app.screen, Workspace))
    assert asked == [None, "ema"]


async def test_not_choosing_a_state_dict_is_the_error() -> None:
    def open_session(_: str | None) -> Session:
        raise AmbiguousStateDictError("Several.", [("a", 3), ("b", 3)])

    app = app_for(open_session)
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, WhichStateDict))
        await pilot.press("escape")
        await until(pilot, lambda: not app.is_running)
    assert isinstance(app.fatal, AmbiguousStateDictError)
    assert app.return_code == 4


@pytest.mark.parametrize("key", ["q", "ctrl+q", "ctrl+c"])
async def test_quits_at_once_without_edits(opened: Opened, key: str) -> None:
    async with opened(linears()) as (pilot, _):
        await pilot.press(key)
        await until(pilot, lambda: not pilot.app.is_running)
    assert pilot.app.return_code == 0


@pytest.mark.parametrize("key", ["q", "ctrl+q", "ctrl+c"])
@pytest.mark.slow("opens the app for every case")
async def test_asks_before_edits_are_lost(opened: Opened, key: str, tmp_path: Path) -> None:
    async with opened(linears(), output=tmp_path / "o.eqx") as (pilot, workspace):
        await pilot.press("J", key)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmQuit))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is workspace)
        await pilot.press(key)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmQuit))
        await pilot.press("s")
        await until(pilot, lambda: not pilot.app.is_running)
    assert (tmp_path / "o.mapping.json").exists()


@pytest.mark.parametrize("second", ["y", "ctrl+q", "ctrl+c"])
async def test_quits_without_saving(opened: Opened, second: str, tmp_path: Path) -> None:
    async with opened(linears(), output=tmp_path / "o.eqx") as (pilot, _):
        await pilot.press("J", "q")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmQuit))
        await pilot.press(second)
        await until(pilot, lambda: not pilot.app.is_running)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it_cleanly(opened: Opened, number: signal.Signals) -> None:
    async with opened(linears()) as (pilot, _):
        os.kill(os.getpid(), number)
        await until(pilot, lambda: not pilot.app.is_running)
    assert pilot.app.return_code == 128 + number


@pytest.mark.slow("drives the app through several screens")
async def test_the_same_key_twice_quits_only_where_the_journal_has_the_edits(
    opened: Opened, state_home: Path
) -> None:
    (state_home / "s2p-tui").write_text("no place for a journal")
    async with opened(linears()) as (pilot, _):
        await pilot.press("J", "ctrl+c", "ctrl+c", "q", "ctrl+q")
        assert isinstance(pilot.app.screen, ConfirmQuit)
        assert "they are lost" in words(pilot.app.screen)
        await pilot.press("y")
        await until(pilot, lambda: not pilot.app.is_running)
    (state_home / "s2p-tui").unlink()
    async with opened(linears()) as (pilot, _):
        await pilot.press("J", "ctrl+c")
        assert "resumes them" in words(pilot.app.screen)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not pilot.app.is_running)
    assert isinstance(pilot.app, S2PApp)
    assert "opening the same pair again resumes them" in pilot.app.farewell


def words(screen) -> str:
    return "\n".join(str(label.content) for label in screen.query(Label))


@pytest.mark.parametrize("keys", ["?", "ctrl+p", "ctrl+o", "t", "slash"])
@pytest.mark.slow("opens the app for every case")
async def test_ctrl_c_leaves_what_is_open_first(opened: Opened, keys: str) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press(keys, "ctrl+c")
        await pilot.pause()
        assert pilot.app.screen is workspace
        assert workspace.focused is None
        assert pilot.app.is_running


@pytest.mark.parametrize("then", ["escape", "y"])
@pytest.mark.slow("opens the app for every case")
async def test_asks_before_a_conversion_is_stopped(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    go = threading.Event()
    convert = Session.convert

    def slow(*args, job, **options):
        while not (go.is_set() or job.is_cancelled):
            go.wait(0.01)
        return convert(*args, job=job, **options)

    monkeypatch.setattr(Session, "convert", slow)
    async with opened(fitting(), output=tmp_path / "o.eqx") as (pilot, _):
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Converting))
        await pilot.press("ctrl+q")
        assert "would be stopped" in words(pilot.app.screen)
        await pilot.press("ctrl+q")
        assert isinstance(pilot.app.screen, ConfirmQuit)
        if then == "y":
            await pilot.press("y")
            await until(pilot, lambda: not pilot.app.is_running)
        else:
            # It ends behind the question.
            go.set()
            await until(pilot, (tmp_path / "o.mapping.json").exists)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, Result))
    assert (tmp_path / "o.eqx").exists() is (then == "escape")


@pytest.mark.parametrize("keys", ["", "?", "ctrl+p", "ctrl+o", "t", "slash", "J q", "m 1"])
@pytest.mark.slow("draws the screen in every size")
async def test_any_size_and_back_again(opened: Opened, keys: str) -> None:
    async with opened(linears(), size=(80, 24)) as (pilot, _):
        await pilot.press(*keys.split())
        screen = pilot.app.screen
        for size in ((1, 1), (2, 2), (40, 10), (3, 30), (200, 1), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert pilot.app.screen is screen
        assert pilot.app.is_running


async def test_nothing_moves_by_itself(opened: Opened) -> None:
    async with opened(linears()) as (pilot, _):
        assert pilot.app.animation_level == "none"
        await pilot.press("/")
        assert isinstance(pilot.app.focused, Input)
        assert not pilot.app.focused.cursor_blink


async def test_no_color_leaves_colours_to_the_terminal(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(linears(), size=(80, 24), theme="nord") as (pilot, _):
        assert pilot.app.native_ansi_color
        assert pilot.app.no_color


async def test_what_was_opened_is_no_work_for_the_garbage_collector(opened: Opened) -> None:
    async with opened(linears()):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
