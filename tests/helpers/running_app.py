"""The app opened on a session, with keys pressed one after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from textual.pilot import Pilot

from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.start import S2PApp
from s2p_tui.session.session import Session

_SOON = 0.02
Opened = Callable[..., AbstractAsyncContextManager[tuple[Pilot[object], Workspace]]]


def make_app(session: Session, output: Path = Path("model.eqx"), **options: object) -> S2PApp:
    return S2PApp(
        lambda _: session,
        model_label="model.pt",
        skeleton_label="model_skeleton.eqx",
        output=output,
        **options,  # pyright: ignore[reportArgumentType]
    )


async def until(pilot: Pilot[object], is_so: Callable[[], bool], seconds: float = 300) -> None:
    """Let the app go on until something is the case, and can be seen."""
    await _until(pilot, is_so, seconds)
    if pilot.app.is_running:
        await pilot.pause()


async def _until(pilot: Pilot[object], is_so: Callable[[], bool], seconds: float = 300) -> None:
    started = time.monotonic()
    while not is_so():
        waited = time.monotonic() - started
        assert waited < seconds, "it never came to be"
        # Looking all the time would take the processor from what is waited for.
        await pilot.pause(None if waited < _SOON else _SOON)


def in_turn(pilot: Pilot[object]) -> Pilot[object]:
    """The pilot, pressing a key only when what the one before did can be seen."""
    press, app = pilot.press, pilot.app
    assert isinstance(app, S2PApp)

    async def press_in_turn(*keys: str) -> None:
        for key in keys:
            await press(key)
            await _until(pilot, lambda: app.keys_are_done or not app.is_running)

    pilot.press = press_in_turn
    return pilot
