"""Keys that come faster than they are done with come to the same as keys that do not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_tui.app.commands import sources
from s2p_tui.app.review import Reviewing
from s2p_tui.app.screens.ask_claude import AskClaude
from s2p_tui.app.screens.choose_source import ChooseSource
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.review import Review
from s2p_tui.app.theme import ASCII
from s2p_tui.proposals.claude.job import Budget
from s2p_tui.proposals.claude.question import question_about
from s2p_tui.session.session import Session
from tests.app.pairs import SURE, swapping
from tests.benchmarks.inputs import Pair, equal_tensors, plain_pair
from tests.helpers.killing import Program
from tests.helpers.running_app import Opened, make_app, until
from tests.helpers.sessions import reordered

_ROWS = 40
_KEYS = 300
_SENT = {
    "down": b"\x1b[B",
    "up": b"\x1b[A",
    "pagedown": b"\x1b[6~",
    "pageup": b"\x1b[5~",
    "enter": b"\r",
    "tab": b"\t",
    # As Kitty's protocol has it: a lone ESC would be taken for the start of what follows.
    "escape": b"\x1b[27u",
    "shift+tab": b"\x1b[Z",
    "space": b" ",
    "slash": b"/",
    "question_mark": b"?",
    "delete": b"\x1b[3~",
    "ctrl+y": b"\x19",
    "ctrl+z": b"\x1a",
    "ctrl+d": b"\x04",
    "ctrl+u": b"\x15",
    "ctrl+p": b"\x10",
}
_LONE = (
    *("j", "k", "down", "up", "pagedown", "pageup", "ctrl+d", "ctrl+u", "g", "G", "n", "N"),
    *("J", "K", "J", "K", "s", "delete", "m", "x", "space", "v", "y", "u", "u"),
    *("ctrl+y", "ctrl+z", "d", "1", "2", "3", "0", "Y", "tab", "shift+tab", "F"),
)
_PHRASES = (
    ("m", "7", "enter"),
    ("m", "1", "2", "x"),
    ("m", "j", "j", "x"),
    ("a", "escape"),
    ("a", "r", "space", "escape"),
    ("enter", "1", "escape"),
    ("t", "j", "escape"),
    ("escape",),
    ("i", "j", "i"),
    ("v", "j", "j", "j", "J"),
    ("space", "space", "space", "K"),
    ("v", "j", "s"),
    ("2", "0", "G", "s"),
    ("slash", "1", "enter", "n", "delete"),
    ("slash", "2", "enter", "N", "J"),
    ("question_mark", "j", "question_mark"),
    ("t", "j", "k", "t"),
    ("ctrl+p", "u", "n", "d", "o", "enter"),
    ("ctrl+p", "g", "a", "p", "enter"),
)


def _mixed(seed: int) -> list[str]:
    """Keys, those that belong together together."""
    chance = random.Random(seed)
    keys: list[str] = []
    while len(keys) < _KEYS:
        # Phrases close what they open, so that the mapping can be saved in the end.
        keys += chance.choice(_PHRASES) if chance.random() < 0.3 else [chance.choice(_LONE)]
    return keys


async def _one_by_one(pair: Pair, keys: list[str], output: Path) -> str:
    """The mapping saved after the keys, each of which is waited for."""
    session = Session.open(pair.model, pair.skeleton)
    app = make_app(session, output=output, resume="afresh")
    async with app.run_test(size=(110, 30)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Workspace))
        for key in keys:
            await pilot.press(key)
        session.save_mapping(output)
    return output.read_text()


@pytest.mark.parametrize("seed", [7])
@pytest.mark.slow("presses hundreds of keys one by one")
async def test_a_burst_comes_to_what_its_keys_do(seed: int, tmp_path: Path) -> None:
    pair = plain_pair(tmp_path, "burst", equal_tensors(_ROWS, _ROWS * 64), ".safetensors")
    keys = _mixed(seed)
    expected = await _one_by_one(pair, keys, tmp_path / "slowly.json")
    saved = tmp_path / "burst.mapping.json"
    program = Program(
        str(pair.model), str(pair.skeleton), "-o", str(tmp_path / "burst.eqx"), "--fresh",
        state_home=tmp_path / "state",
    )  # fmt: skip
    try:
        program.until(b"layers.0.weight")
        program.send(b"".join(_SENT.get(key, key.encode()) for key in keys))
        program.send(b"\x13")
        program.until_there(saved)
    finally:
        program.kill_after(0)
    assert saved.read_text() == expected


def _review(session: Session) -> Review:
    return Review(
        session, Reviewing(session.alignment, swapping(session, (0, 2), sure=SURE)), ASCII
    )


def _source(session: Session) -> ChooseSource:
    return ChooseSource(sources.offer(session, 0, sources.Pools(session)), ASCII)


def _question(session: Session) -> AskClaude:
    question = question_about(session.situation, Budget())
    return AskClaude(question, lambda: question, "sonnet", ASCII)


@pytest.mark.parametrize("make", [_review, _source, _question])
async def test_keys_come_before_a_list_is_composed(
    opened: Opened, make: Callable[[Session], Review | ChooseSource | AskClaude]
) -> None:
    async with opened(reordered("order")) as (pilot, workspace):
        screen = make(workspace.session)
        pilot.app.push_screen(screen)
        for action in ("go(1)", "page(1)", "first", "last", "filter('l')", "toggle_hunk"):
            await screen.run_action(action)
        await until(pilot, lambda: screen.has_list)
        await screen.run_action("first")
        await screen.run_action("go(1)")
        assert screen.line == 1
