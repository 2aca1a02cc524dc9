"""The README's walk, done as it says: every command and every snippet, in a terminal too."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import pytest

from s2p_tui.cli import run
from s2p_tui.formats.pytree.factory import call_factory
from tests.helpers.terminal import CLEAN, Terminal

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
_BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def section(title: str, text: str = README) -> str:
    """The text under a heading."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.slow("runs every command of the README")
def test_the_walk_of_five_minutes(
    tmp_path: Path, terminal: Terminal, environment: dict[str, str]
) -> None:
    ran = 0
    for block in _BLOCK.finditer(section("Five minutes")):
        text, ran = block["text"], ran + 1
        if block["note"] == "in a terminal":
            path = shlex.quote(environment["PATH"])
            terminal.start(f"{CLEAN} PATH={path} {text.strip()}; cat", tmp_path)
            terminal.wait_for("Every row lines up")
            terminal.keys("c")
            terminal.wait_for("Convert")
            terminal.keys("Enter")
            terminal.wait_for("Read back and compared with its sources: equal.")
            terminal.keys("q")
            terminal.wait_for("model.eqx")
        elif block["note"] is not None:
            (tmp_path / block["note"]).write_text(text)
        else:
            program = ["bash", "-euo", "pipefail"] if block["kind"] == "bash" else [sys.executable]
            subprocess.run([*program, "-c", text], cwd=tmp_path, env=environment, check=True)
    assert ran == 5
    for block in _BLOCK.finditer((ROOT / "s2p_tui/cli/check/README.md").read_text()):
        program = ["bash", "-euo", "pipefail", "-c", block["text"]]
        subprocess.run(program, cwd=tmp_path, env=environment, check=True)
    like = call_factory(f"{tmp_path / 'net.py'}:Net", abstract=True)
    first, second = (
        eqx.tree_deserialise_leaves(tmp_path / name, like) for name in ("model.eqx", "again.eqx")
    )
    assert eqx.tree_equal(first, second)
    assert float(jax.numpy.abs(first.up.weight).max()) > 0


MODEL_OF_FLAX = """
import torch
from torch import nn

layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(3)])
model = nn.ModuleDict({"layers": layers, "norm": nn.BatchNorm1d(16)})
torch.save(model.state_dict(), "model.pt")
"""


@pytest.mark.slow("runs every command of the README")
def test_flax_models_are_filled_as_it_says(tmp_path: Path, environment: dict[str, str]) -> None:
    def in_folder(kind: str, text: str) -> None:
        program = ["bash", "-euo", "pipefail"] if kind == "bash" else [sys.executable]
        subprocess.run([*program, "-c", text], cwd=tmp_path, env=environment, check=True)

    in_folder("python", MODEL_OF_FLAX)
    ran = 0
    text = (ROOT / "s2p_tui/cli/FILES.md").read_text()
    for block in _BLOCK.finditer(section("Flax models", text)):
        if (block["note"] or "").endswith(".py"):
            (tmp_path / block["note"]).write_text(block["text"])
            continue
        if block["note"]:
            in_folder("bash", "s2p-tui convert model.pt nnx_skeleton.eqx -o nnx.orbax")
        filled = "" if block["kind"] == "bash" else _LAST_KERNEL
        in_folder(block["kind"], block["text"] + filled)
        ran += 1
    assert ran == 5


_LAST_KERNEL = """
import torch
if "model" in dir():
    kernel = model.layers[2].kernel[...]
else:
    kernel = variables["params"]["layers_2"]["kernel"]
assert kernel.tolist() == torch.load("model.pt")["layers.2.weight"].T.tolist()
"""


def test_every_command_has_a_line_in_the_readme() -> None:
    from s2p_tui.cli.options import app

    commands = [name for name in app if not name.startswith("-")]
    assert "convert" in commands
    assert [name for name in commands if f"s2p-tui {name}" not in README] == []


def test_set_up_has_two_commands() -> None:
    commands = re.findall(r"^python3 -m pip install.*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert run(["--version"]) == 0
