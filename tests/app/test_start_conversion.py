"""The app opened from Python: in a real terminal it works, elsewhere it says what to call."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_tui.app.start import (
    start_conversion_from_paths,
    start_conversion_from_pytree_and_state_dict,
)
from s2p_tui.app.terminal.requirements import require_foreground, require_terminal
from s2p_tui.errors import UsageError
from tests.helpers.killing import Program

pytestmark = pytest.mark.slow("starts programs that import torch and JAX")
ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, torch, jax
sys.path.append(sys.argv[2])
from s2p_tui.app import start_conversion_from_paths, start_conversion_from_pytree_and_state_dict
from s2p_tui.converter import chunkify_pytree, chunkify_state_dict
from s2p_tui.errors import S2PError
from tests.models.linears import EqxNet, TorchNet
from s2p_tui.formats.pytree.skeleton import save_skeleton
torch.manual_seed(0)
network, model = TorchNet(), EqxNet(key=jax.random.PRNGKey(0))
state = network.state_dict()
how = sys.argv[1]
try:
    if how == "memory":
        found = start_conversion_from_pytree_and_state_dict(model, state)
    elif how == "nested":
        both = {"model": state, "ema": dict(state)}
        found = start_conversion_from_pytree_and_state_dict(model, both)
    elif how == "chunks":
        chunkify_state_dict(state, "chunks")
        chunkify_pytree(model, "chunks")
        found = start_conversion_from_paths("chunks", "chunks", target_name="model.eqx")
    else:
        torch.save(state, "model.pt")
        save_skeleton("skeleton.eqx", model)
        pair = ("skeleton.eqx", "model.pt") if how == "files" else ("model.pt", "skeleton.eqx")
        found = start_conversion_from_paths(*pair, target_name="model.eqx")
    print("RETURNED", found and (str(found.path), found.verified, found.rows["exact"]), flush=True)
except S2PError as error:
    print("RAISED", error, flush=True)
print("END", flush=True)
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    programs: list[Program] = []
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)

    def start(how: str) -> Program:
        programs.append(
            Program("script.py", how, str(ROOT), state_home=tmp_path / "state", module=None)
        )
        return programs[-1]

    yield start
    for program in programs:
        program.kill_after(0)


@pytest.mark.parametrize("how", ["memory", "chunks", "files"])
def test_it_returns_what_was_written(started: Any, tmp_path: Path, how: str) -> None:
    program = started(how)
    program.until(b".lin3.bias")
    program.send(b"c")
    program.until(b"Convert")
    program.send(b"\r")
    program.until(b"tree_deserialise_leaves")
    program.send(b"\r")
    program.send(b"q")
    program.until(b"RETURNED ('model.eqx', True, 6)\r\nEND")
    assert (tmp_path / "model.eqx").exists()
    assert (tmp_path / "model.mapping.json").exists()


def test_quitting_returns_none_and_edits_are_there_again(started: Any, tmp_path: Path) -> None:
    program = started("memory")
    program.until(b".lin3.bias")
    program.send(b"J")
    program.until(b"edits 1")
    program.send(b"\x11")
    program.until(b"uit")
    program.send(b"\x11")
    program.until(b"RETURNED None\r\nEND")
    again = started("memory")
    again.until(b"1 edit")
    assert not (tmp_path / "model.eqx").exists()


def test_several_state_dicts_are_asked_about(started: Any) -> None:
    program = started("nested")
    program.until(b"ema")
    program.send(b"\r")
    program.until(b".lin3.bias")
    program.send(b"q")
    program.until(b"RETURNED None")


def test_paths_the_wrong_way_round_are_told_of(started: Any) -> None:
    program = started("swapped")
    program.until(b"RAISED skeleton.eqx is given as the state dict and holds a pytree")


def test_sigterm_ends_the_script_too(started: Any) -> None:
    import signal

    program = started("memory")
    program.until(b".lin3.bias")
    os.kill(program.pid, signal.SIGTERM)
    assert program.ended() == -signal.SIGTERM


CALLS = [
    lambda: start_conversion_from_pytree_and_state_dict({"w": 1}, {"w": torch.ones(1)}),
    lambda: start_conversion_from_paths("pytree", "state_dict"),
]


@pytest.mark.parametrize(("call", "way_out"), zip(CALLS, ("from_memory", "from_path"), strict=True))
def test_without_a_terminal_the_way_out_is_named(call: Any, way_out: str) -> None:
    with pytest.raises(
        UsageError, match=rf"standard input is not one\. Use s2p_tui\.convert\({way_out}=True"
    ):
        call()


class NotebookStream:
    """As a notebook's streams are: no file behind them."""

    def fileno(self) -> int:
        raise OSError("no file")


def test_in_a_notebook_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", NotebookStream())
    with pytest.raises(UsageError, match="needs a terminal"):
        require_terminal("convert")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="needs a terminal"):
        require_terminal("convert")

    async def cell() -> None:
        require_foreground("convert")

    with pytest.raises(UsageError, match=re.escape("running event loop, as a notebook's")):
        asyncio.run(cell())
    require_foreground("convert")


def test_in_another_thread_the_way_out_is_named() -> None:
    import threading

    found: list[UsageError] = []

    def call() -> None:
        try:
            require_foreground("convert")
        except UsageError as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread only. Use convert." in str(found[0])


def test_terminals_that_cannot_move_their_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    master, terminal = pty.openpty()
    with os.fdopen(terminal, "r+b", buffering=0) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("TERM", "dumb")
        with pytest.raises(UsageError, match="TERM is 'dumb'"):
            require_terminal("convert")
        monkeypatch.setenv("TERM", "xterm")
        require_terminal("convert")
        monkeypatch.undo()
    os.close(master)
