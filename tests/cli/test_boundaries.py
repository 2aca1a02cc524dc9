"""`check` on models that are cut into modules otherwise: such pairs are no difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s2p_tui.cli import run

MODELS = """
import equinox as eqx
import jax
import torch
from torch import nn

class TorchPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
    def forward(self, x):
        return self.norm(self.linear(x))

class TorchExtra(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
    def forward(self, x):
        return self.inner(x)

class Torch(nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.extra, self.head = TorchPart(), TorchExtra(), nn.Linear(4, 3)
    def forward(self, x):
        x = self.part(x)
        return self.head(x + 0 * self.extra(x))

class Part(eqx.Module):
    linear: eqx.nn.Linear
    def __call__(self, x):
        return self.linear(x)

class Extra(eqx.Module):
    inner: eqx.nn.Linear
    more: float = eqx.field(static=True)
    def __call__(self, x):
        return self.inner(x) + self.more

class Head(eqx.Module):
    linear: eqx.nn.Linear
    more: float = eqx.field(static=True)
    def __call__(self, x):
        return self.linear(x) + self.more

class Jax(eqx.Module):
    part: Part
    norm: eqx.nn.LayerNorm
    extra: Extra
    head: Head
    def __init__(self, extra=0.0, head=0.0, *, key):
        self.part = Part(eqx.nn.Linear(4, 4, key=key))
        self.norm = eqx.nn.LayerNorm(4)
        self.extra = Extra(eqx.nn.Linear(4, 4, key=key), extra)
        self.head = Head(eqx.nn.Linear(4, 3, key=key), head)
    def __call__(self, x):
        x = self.norm(self.part(x))
        return self.head(x + 0 * self.extra(x))
"""


def _check(
    folder: Path, capsys: pytest.CaptureFixture[str], **kwargs: float
) -> tuple[int, dict[str, Any]]:
    models = folder / "models_cut_otherwise.py"
    models.write_text(MODELS)
    status = run(
        [
            "check", "--torch", f"{models}:Torch", "--jax", f"{models}:Jax", "--trust-all",
            "--jax-kwargs", json.dumps(kwargs), "--shape", "4", "--modules", "--json",
        ]
    )  # fmt: skip
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow("compiles and runs models in both frameworks")
def test_a_module_that_holds_more_than_its_twin_is_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = _check(tmp_path, capsys)
    assert (status, found["first_difference"]) == (0, None)
    modules = {module["torch"]: module["agrees"] for module in found["modules"]}
    assert modules.items() >= {"part.linear": True, "part.norm": True, "head": True}.items()
    assert all(modules.values())


@pytest.mark.slow("compiles and runs models in both frameworks")
def test_the_first_difference_is_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = _check(tmp_path, capsys, head=1.0)
    assert status == 6
    assert found["first_difference"]["torch"] == "head"


@pytest.mark.slow("makes or compiles models")
def test_twins_that_differ_are_named_though_the_outputs_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = _check(tmp_path, capsys, extra=1.0)
    assert (status, found["status"]) == (0, "agree")
    modules = {module["torch"]: module["agrees"] for module in found["modules"]}
    assert modules["extra"] is False
    assert modules["extra.inner"] is True
