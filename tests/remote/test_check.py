"""`check` on checkpoints of other machines, and on such with an adapter merged in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from s2p_tui.cli import run
from tests.helpers.web_server import WebServer

MODELS = """
import equinox as eqx
from torch import nn

def make_torch():
    return nn.Sequential(nn.Linear(4, 3))

class Jax(eqx.Module):
    layers: list
    def __init__(self, *, key):
        self.layers = [eqx.nn.Linear(4, 3, key=key)]
    def __call__(self, x):
        return self.layers[0](x)
"""


def test_an_address_and_an_adapter_are_read(
    server: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models_of_the_far.py"
    models.write_text(MODELS)
    torch.save(nn.Sequential(nn.Linear(4, 3)).state_dict(), tmp_path / "far.pt")
    lora = tmp_path / "lora"
    lora.mkdir()
    name = "base_model.model.0.lora_"
    factors = {f"{name}A.weight": torch.ones(2, 4), f"{name}B.weight": torch.ones(3, 2)}
    safetensors.torch.save_file(factors, lora / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    sides = ["check", "--torch", f"{models}:make_torch", "--jax", f"{models}:Jax", "--shape", "4"]
    sides += ["--checkpoint", f"{server.url}/far.pt", "--json", "--trust-all"]
    assert run(sides) == 0
    assert server.requests
    # Torch would differ by far if it did not get the merged numbers, as JAX does.
    assert run([*sides, "--adapter", str(lora)]) == 0
    assert [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()] == [
        "agree", "agree",
    ]  # fmt: skip


def test_an_adapter_needs_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    sides = ["--torch", "a.b:c", "--jax", "d.e:f", "--shape", "4"]
    assert run(["check", *sides, "--adapter", "lora"]) == 2
    assert "--adapter lora is merged into a checkpoint, and none is given." in (
        capsys.readouterr().err
    )
