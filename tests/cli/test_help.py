"""Every command's help: as wide as a terminal, and with examples that work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from contextlib import nullcontext
from pathlib import Path

import equinox as eqx
import jax
import pytest
import torch

from s2p_tui.cli import run
from s2p_tui.cli.options import app
from s2p_tui.formats.pytree.factory import call_factory
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.safetensors import header_for
from tests.helpers.hub_server import hub_of
from tests.helpers.terminal import CLEAN, PYTHON, Terminal

WIDTH = 80
COMMANDS = ["", *(name for name in app if not name.startswith("-"))]
MODELS = """
import equinox as eqx
import jax
import numpy as np
import torch


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1)
        self.out = torch.nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.out(torch.relu(self.up(x)))


class Net(eqx.Module):
    up: eqx.nn.ConvTranspose2d
    out: eqx.nn.Conv2d

    def __init__(self, *, key, width=8):
        first, second = jax.random.split(key)
        self.up = eqx.nn.ConvTranspose2d(3, width, 4, stride=2, padding=1, key=first)
        self.out = eqx.nn.Conv2d(width, 3, 3, padding=1, key=second)

    def __call__(self, x):
        return self.out(jax.nn.relu(self.up(x)))


make = Net


def example():
    return np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 8, 8)
"""
TOKENS = """
import equinox as eqx
import jax
import torch


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(30000, 4)
        self.kinds = torch.nn.Embedding(30001, 4)

    def forward(self, ids, kinds):
        return self.words(ids) + self.kinds(kinds)


class Bert(eqx.Module):
    words: eqx.nn.Embedding
    kinds: eqx.nn.Embedding

    def __init__(self, *, key):
        self.words = eqx.nn.Embedding(30000, 4, key=key)
        self.kinds = eqx.nn.Embedding(30001, 4, key=key)

    def __call__(self, ids, kinds):
        return jax.vmap(self.words)(ids) + jax.vmap(self.kinds)(kinds)
"""


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


def examples_in(text: str) -> list[str]:
    """The commands among a help text's examples, continued lines joined."""
    examples = text.partition("\nExamples:\n")[2].partition("\n\nExit status:")[0]
    joined = examples.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and "  #" not in line]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples speak of, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.py").write_text(MODELS)
    (tmp_path / "bert.py").write_text(TOKENS)
    torch.manual_seed(0)
    weights = call_factory(f"{tmp_path / 'net.py'}:TorchNet").state_dict()
    torch.save(weights, "model.pt")
    torch.save({"model": weights, "ema": weights, "step": 3}, "checkpoint.pt")
    torch.save(call_factory(f"{tmp_path / 'bert.py'}:Torch").state_dict(), "bert.pt")
    order = ["up.weight", "up.bias", "out.weight", "out.bias"]
    head = header_for([(key, tuple(weights[key].shape), "float32") for key in order])
    numbers = b"".join(weights[key].numpy().tobytes() for key in order)
    Path("model.safetensors").write_bytes(head + numbers)
    assert run(["skeleton", "net.py:Net"]) == 0
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("narrow")
def test_help_fits_a_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert text.startswith(f"Usage: s2p-tui {command}".rstrip())
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert examples_in(text)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("narrow")
def test_help_shows_what_is_used_unless_given(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words or as a value; what Python calls nothing is shown as nothing."""
    text = help_of(command, capsys)
    assert re.findall(r"\[default: (?:\(.*?\)|False|True|None|)\]", text) == []
    if "--chunk-size" in text:
        assert re.search(r"--chunk-size INT +MiB .*\[default: *64\]", text, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("narrow")
def test_help_calls_the_checkpoint_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert not re.search(r"\bMODEL\b|unless given", text)
    if command in ("", "convert"):
        assert "CHECKPOINT SKELETON" in text.splitlines()[0]


@pytest.mark.usefixtures("narrow")
@pytest.mark.slow("runs models in both frameworks")
def test_old_names_of_options_still_work(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["convert", "model.pt", "net.py:Net", "-o", "model.eqx"]
    kept = ["--save-mapping", "m.json", "--report", "c.json"]
    assert run([*convert, *kept]) == 0
    certificate = (models / "c.json").read_bytes()
    sides = ["--model", "model.pt", "--skeleton", "net.py:Net", "--mapping", "m.json"]
    assert run(["verify", "model.eqx", *sides, "--report", "again.json"]) == 0
    assert (models / "again.json").read_bytes() == certificate
    both = ["--torch", "net.py:TorchNet", "--jax", "net.py:Net", "--shape", "3x8x8"]
    assert run(["check", *both, "--model", "model.pt"]) == 0
    capsys.readouterr()
    assert run([*convert, "--model", "opus"]) == 2
    assert "--claude-model and --yes go with --arrange claude" in capsys.readouterr().err


@pytest.mark.usefixtures("narrow")
@pytest.mark.slow("parses the examples of all commands")
def test_examples_are_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    checked = 0
    for command in COMMANDS:
        for example in examples_in(help_of(command, capsys)):
            if example.startswith("s2p-tui "):
                words = shlex.split(example.partition(" > ")[0])[1:]
                function, bound, unknown = app.parse_args(
                    words, exit_on_error=False, print_error=False
                )[:3]
                name = command.split()[0] if command else "open_app"
                assert bound is not None
                assert not unknown
                assert function.__name__ in (name, "convert")
                checked += 1
    assert checked > 2 * len(COMMANDS) - 3


@pytest.mark.usefixtures("narrow")
@pytest.mark.slow("runs every example")
def test_examples_work(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but those that open the app or ask Claude, one after the other in one folder."""
    ran: list[str] = []
    commands = "convert verify export recipe eject check skeleton inspect chunk demo keys"
    for command in commands.split():
        for example in examples_in(help_of(command, capsys)):
            words = shlex.split(example)
            if "claude" in words or example == "s2p-tui demo":
                continue
            with hub_of(models) if "hf://" in example else nullcontext():
                assert run(words[1:]) == 0, (example, capsys.readouterr().err)
            ran.append(example)
    assert len(ran) > 18
    for name in ("model.eqx", "ema.eqx"):
        like = call_factory("net.py:Net", abstract=True)
        model = eqx.tree_deserialise_leaves(models / name, like)
        assert float(jax.numpy.abs(model.up.weight).max()) > 0
    assert (models / "model.certificate.json").is_file()
    weights = torch.load("model.pt", weights_only=True)
    for name in ("trained.safetensors", "trained.pt", "alone.safetensors"):
        found = open_checkpoint(models / name)
        assert {entry.key for entry in found.state_dict} == set(weights)
    assert (models / "wide_skeleton.eqx").is_file()


@pytest.mark.slow("starts a program in a terminal")
def test_example_of_the_app_opens_it(models: Path, terminal: Terminal) -> None:
    path = shlex.quote(os.environ.get("PYTHONPATH", ""))
    program = f"{CLEAN} PYTHONPATH={path} {PYTHON} -m s2p_tui"
    terminal.start(f"{program} model.pt net.py:Net -o model.eqx; cat", models, width=WIDTH)
    terminal.wait_for("Every row lines up")
    terminal.keys("q")


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script: Path, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word, as it asks the function that the script names."""
    asked = (
        f"source {shlex.quote(str(script))}\n"
        f"COMP_WORDS=({' '.join(map(shlex.quote, ('s2p-tui', *words)))})\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
        "function=$(complete -p s2p-tui | sed -E 's/.*-F ([^ ]+).*/\\1/')\n"
        '"$function"\n'
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", asked],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_commands(script: Path, tmp_path: Path) -> None:
    assert {*COMMANDS[1:]} <= {*completed(script, tmp_path, "")}
    assert completed(script, tmp_path, "con") == ["convert"]


def test_bash_completes_options_and_their_values(script: Path, tmp_path: Path) -> None:
    offered = completed(script, tmp_path, "convert", "model.pt", "--")
    assert {"--output", "--mapping", "--arrange", "--trust-all", "--help"} <= {*offered}
    assert "--torch" not in offered
    assert completed(script, tmp_path, "convert", "--arrange", "c") == ["claude"]
    assert completed(script, tmp_path, "completion", "z") == ["zsh"]
    assert completed(script, tmp_path, "--res") == ["--resume"]


@pytest.mark.parametrize(
    "before",
    [
        ["convert"],
        ["convert", "model.pt"],
        ["convert", "model.pt", "skeleton.eqx", "--output"],
        ["convert", "--mapping"],
        ["convert", "--recipe"],
        ["recipe"],
        ["verify", "model.eqx", "--skeleton"],
        ["inspect"],
        ["chunk"],
        ["model.pt"],
        [],
    ],
)
def test_bash_completes_files(script: Path, tmp_path: Path, before: list[str]) -> None:
    (tmp_path / "my model.pt").touch()
    (tmp_path / "my folder").mkdir()
    assert sorted(completed(script, tmp_path, *before, "my")) == ["my folder", "my model.pt"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_of_other_shells_name_everything(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert [name for name in (*COMMANDS, "trust-all", "bfloat16") if name not in text] == []


def test_a_shell_that_is_not_known_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "csh"]) == 2
    assert "fish" in capsys.readouterr().err
