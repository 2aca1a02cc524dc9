"""An app opened on a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot

from s2p_tui.app.screens.main import Workspace
from s2p_tui.session.session import Session
from tests.helpers.running_app import Opened, in_turn, make_app, until
from tests.helpers.unlike import script, session

__all__ = ["opened", "script", "session"]


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
