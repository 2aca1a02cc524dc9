"""The whole program in a real terminal: keys in, a right file out."""

from __future__ import annotations

import shlex
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import torch

from s2p_tui.cli.demo import Pair, compare
from tests.helpers.terminal import CLEAN, PYTHON, Terminal
from tests.models.linears import EqxNet, TorchNet, make_pair

pytestmark = pytest.mark.slow("starts the app in a terminal")
_PATIENCE = 300.0


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


def _program(pair: Pair) -> str:
    arguments = f"{pair.model.name} {pair.skeleton.name} -o {pair.output.name}"
    return f"{CLEAN} {PYTHON} -m s2p_tui {arguments}; echo status $?; cat"


def _forwards_differ_by(pair: Pair) -> float:
    like = EqxNet(key=jax.random.PRNGKey(5))
    model = eqx.tree_deserialise_leaves(pair.output, like)
    network = TorchNet()
    network.load_state_dict(torch.load(pair.model, weights_only=True))
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(4, 10)
    with torch.no_grad():
        expected = network(torch.tensor(x)).numpy()
    return float(np.max(np.abs(np.asarray(jax.vmap(model)(x)) - expected)))


def test_reversed_layers_are_lined_up_and_converted(terminal: Terminal, pair: Pair) -> None:
    terminal.start(_program(pair), pair.model.parent)
    terminal.wait_for(".lin3.bias")

    # Rows 1 and 5 exchanged: pick up, go there by number, swap.
    terminal.keys("g", "m", "5", "x")
    terminal.wait_for("belongs here")
    terminal.keys("u")
    terminal.wait_for("✓  10×10 float32 .lin3.weight")
    terminal.keys("c")
    terminal.wait_for("Convert")
    terminal.keys("Enter")
    terminal.wait_for("tree_deserialise_leaves")
    terminal.keys("Enter")
    terminal.wait_for("✓  10×10 float32 .lin3.weight")
    terminal.keys("q")
    screen = terminal.wait_for("status 0")
    assert "model.eqx" in screen
    assert _forwards_differ_by(pair) < 1e-6
    assert (pair.output.parent / "model.mapping.json").exists()


def test_a_closed_terminal_ends_the_program(terminal: Terminal, pair: Pair) -> None:
    pid_file = pair.model.parent / "pid"
    command = f"echo $$ > {shlex.quote(str(pid_file))}; exec {_program(pair).split(';')[0]}"
    terminal.start(command, pair.model.parent)
    terminal.wait_for(".lin3.bias")
    process = Path("/proc") / pid_file.read_text().strip()
    terminal.stop()
    deadline = time.monotonic() + _PATIENCE
    while process.exists() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert not process.exists()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10)])
def test_small_terminals_stay_usable(
    terminal: Terminal, pair: Pair, width: int, height: int
) -> None:
    terminal.start(_program(pair), pair.model.parent, width, height)
    screen = terminal.wait_for("lin3.bias")
    assert len(screen.splitlines()) <= height
    terminal.keys("J")
    terminal.wait_for("✗")
    terminal.keys("u")
    terminal.keys("q")
    terminal.wait_for("status 0")


def test_the_demo_leads_to_a_file_that_computes_the_same(
    terminal: Terminal, tmp_path: Path
) -> None:
    program = f"{CLEAN} {PYTHON} -m s2p_tui demo --directory demo; echo status $?; cat"
    terminal.start(program, tmp_path)
    terminal.wait_for("Demo: the checkpoint lists its layers last to first")
    terminal.keys("a")
    terminal.wait_for("proposed by the matcher")
    terminal.keys("Enter")
    terminal.wait_for("Demo: every row lines up now")
    terminal.keys("c")
    terminal.wait_for("Convert")
    terminal.keys("Enter")
    terminal.wait_for("Both models on the same images: outputs differ by")
    terminal.keys("Enter")
    terminal.wait_for("Demo: done")
    terminal.keys("q")
    terminal.wait_for("Your own: s2p-tui skeleton")
    terminal.wait_for("status 0")
    made = tmp_path / "demo"
    compare(Pair(made / "model.pt", made / "model_skeleton.eqx", made / "model.eqx"))
