"""An app opened on a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import textual._wait
import textual.screen
from textual.pilot import Pilot

from s2p_tui.app.screens.main import Workspace
from s2p_tui.session.session import Session
from tests.helpers.running_app import Opened, in_turn, make_app, until
from tests.helpers.unlike import script, session

__all__ = ["opened", "script", "session"]


@pytest.fixture(scope="session", autouse=True)
def short_looks() -> Iterator[None]:
    """Draw, and look whether the app is done, more often than Textual does by itself: its pilot
    sleeps for 20 ms at least twice after every key, which was most of the time of these tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textual._wait, "SLEEP_GRANULARITY", 0.004)
        # Five times what looking takes by itself.
        patch.setattr(textual._wait, "SLEEP_IDLE", 0.0004)
        patch.setattr(textual.screen, "UPDATE_PERIOD", 0.003)
        yield


@pytest.fixture
def opened() -> Opened:
    @asynccontextmanager
    async def open_app(
        session: Session, size: tuple[int, int] = (100, 30), **options: object
    ) -> AsyncIterator[tuple[Pilot[object], Workspace]]:
        app = make_app(session, **options)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: isinstance(app.screen, Workspace))
            await pilot.pause()
            assert isinstance(app.screen, Workspace)
            yield in_turn(pilot), app.screen

    return open_app
