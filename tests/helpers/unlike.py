"""A pair of models whose names have nothing in common, so that only a reader could line them up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.session.session import Session
from tests.helpers.claude_server import Script, connect, rows, says, serving
from tests.helpers.sessions import make_session

LINEAR = "equinox.nn.Linear"


def unlike() -> tuple[list[Entry], list[Leaf]]:
    """Two layers of the same sizes: L1 L2 L3 L4 belong to E2 E4 E1 E3."""
    return (
        [
            Entry("alpha.w", (4, 4), "float32"),
            Entry("beta.w", (4, 4), "float32"),
            Entry("alpha.b", (4,), "float32"),
            Entry("beta.b", (4,), "float32"),
        ],
        [
            Leaf(".one.weight", (4, 4), "float32", owner=LINEAR),
            Leaf(".one.bias", (4,), "float32", owner=LINEAR),
            Leaf(".two.weight", (4, 4), "float32", owner=LINEAR),
            Leaf(".two.bias", (4,), "float32", owner=LINEAR),
        ],
    )


RIGHT: list[tuple[str, list[str]]] = [
    ("L1", ["E2"]),
    ("L2", ["E4"]),
    ("L3", ["E1"]),
    ("L4", ["E3"]),
]
RIGHT_KEYS = ["beta.w", "beta.b", "alpha.w", "alpha.b"]

ANSWER = says(rows(("they are named so", RIGHT)))


@pytest.fixture
def session() -> Session:
    """That pair, as the matcher lines it up."""
    return make_session(*unlike(), arrange="auto")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Claude on the loopback, who lines that pair up rightly."""
    script = Script([ANSWER])
    with serving(script) as url:
        connect(monkeypatch, tmp_path, url)
        yield script
