"""Servers of checkpoints on this machine, asked without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from s2p_tui.formats.remote import web
from tests.helpers.web_server import WebServer, serving


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits before it tries again."""
    monkeypatch.setattr(web, "FIRST_WAIT", 0.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with serving(tmp_path) as server:
        yield server
