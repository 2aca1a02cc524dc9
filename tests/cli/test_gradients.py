"""`check --gradients`: torch's gradients against JAX's, parameter by parameter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Scale,
    Split,
    Stack,
    Sum,
    Take,
    shape_of,
)
from s2p_tui.cli import run
from s2p_tui.cli.check.gradients import bring_back
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.formats.tensors import ArrayTensors
from tests.cli.twin_files import JAX, TORCH, twin_files

A, B = Take("m.a"), Take("m.b")
SHAPES = {"m.a": (2, 6), "m.b": (3, 4), "m.c": (6,)}
LINEAR: list[Expr] = [
    A,
    Permute(A, (1, 0)),
    Flip(A, (1,)),
    Reshape(Permute(Reshape(A, (2, 3, 2)), (1, 0, 2)), (6, 2)),
    Split(A, 1, 1, 4),
    Scale(A, -2.5),
    Stack((Take("m.c"), Take("m.c")), 1),
    Concat((Reshape(B, (2, 6)), A, Constant(3.0, (1, 6))), 0),
    Sum((A, Reshape(B, (2, 6)), Constant(1.0, (2, 6)))),
    Broadcast(Reshape(Take("m.c"), (6, 1)), (2, 6, 3)),
]


@pytest.mark.parametrize("source", LINEAR, ids=[type(one).__name__ for one in LINEAR])
def test_what_is_brought_back_is_the_transpose(source: Expr) -> None:
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=shape) for key, shape in SHAPES.items()}
    entries = StateDict(tuple(Entry(key, shape, "float64") for key, shape in SHAPES.items()))

    def made(of: dict[str, np.ndarray]) -> np.ndarray:
        evaluator = Evaluator(entries, ArrayTensors(of))
        shape = evaluator.shape(source)
        return evaluator.region(source, tuple((0, size) for size in shape))

    gradient = rng.normal(size=shape_of(source, entries.shape))
    back: dict[str, np.ndarray] = {}
    bring_back(source, gradient, entries.shape, "m.", back)
    zero = made({key: np.zeros(shape) for key, shape in SHAPES.items()})
    expected = float(((made(arrays) - zero) * gradient).sum())
    assert sum((arrays[f"m.{key}"] * part).sum() for key, part in back.items()) == pytest.approx(
        expected
    )
    assert {f"m.{key}": part.shape for key, part in back.items()}.items() <= SHAPES.items()


MODELS = """
import equinox as eqx
import jax
import torch
from torch import nn

class Torch(nn.Module):
    def __init__(self, form="plain"):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.form = form
        if form != "apart":
            self.head.weight = self.table.weight
        if form == "frozen":
            self.norm.weight.requires_grad_(False)
    def forward(self, ids):
        return self.head(self.norm(self.table(ids)))

class Jax(eqx.Module):
    table: jax.Array
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    form: str = eqx.field(static=True)
    def __init__(self, form="plain", *, key):
        self.table = jax.random.normal(key, (7, 4))
        self.norm = eqx.nn.LayerNorm(4)
        self.head = eqx.nn.Linear(4, 7, use_bias=False, key=key)
        self.form = form
    def __call__(self, ids):
        x = jax.vmap(self.norm)(self.table[ids])
        if self.form == "stopped":
            x = jax.lax.stop_gradient(x)
        return jax.vmap(self.head)(x)
"""


def _check(
    folder: Path, capsys: pytest.CaptureFixture[str], forms: tuple[str, str], *more: str
) -> tuple[int, dict[str, Any]]:
    models = folder / "models_with_gradients.py"
    models.write_text(MODELS)
    kwargs = [json.dumps({"form": form}) for form in forms]
    status = run(
        [
            "check", "--torch", f"{models}:Torch", "--jax", f"{models}:Jax",
            "--torch-kwargs", kwargs[0], "--jax-kwargs", kwargs[1],
            "--shape", "5", "--dtype", "int32", "--below", "7", "--trust-all",
            "--gradients", "--json", *more,
        ]
    )  # fmt: skip
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("form", ["plain", "frozen"])
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_gradients_of_tied_and_frozen_parameters_are_compared(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = _check(tmp_path, capsys, (form, "plain"))
    assert (status, found["status"]) == (0, "agree")
    by_key = {one["key"]: one for one in found["gradients"]}
    # What torch ties are two leaves here: their gradients add up to torch's.
    assert by_key["table.weight"]["leaves"] == [".table", ".head.weight"]
    assert set(by_key) == {"table.weight", "norm.weight", "norm.bias"}
    assert all(one["relative_difference"] < 1e-5 for one in by_key.values())
    assert all(one["cosine"] > 0.99999 for one in by_key.values())


@pytest.mark.slow("compiles and runs models in both frameworks")
def test_outputs_that_agree_with_other_gradients_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "parity.md"
    status, found = _check(tmp_path, capsys, ("apart", "stopped"), "--report", str(report))
    assert (status, found["status"]) == (6, "differ")
    assert found["relative_difference"] < 1e-5
    agree = {one["key"]: one["agrees"] for one in found["gradients"]}
    assert agree == {
        "table.weight": False, "norm.weight": False, "norm.bias": False, "head.weight": True,
    }  # fmt: skip
    modules = {one["torch"]: one["gradients"]["relative_difference"] for one in found["modules"]}
    assert modules["norm"] > 0.1
    assert modules["head"] < 1e-5
    text = report.read_text()
    assert "gradients of 3 of 4 parameters DIFFER" in text
    places = [text.index(f"DIFFERS | `{key}`") for key in ("table.weight", "norm.weight")]
    assert places == sorted(places)
    assert text.index("agrees | `head.weight` | `.head.weight`") > places[-1]


TWINS = [
    ("resnet", ["--shape", "3x8x8"]),
    ("gru_cell", ["--shape", "3", "--shape", "4"]),
    ("scan", ["--shape", "4", "--batch", "1"]),
]


@pytest.mark.slow("compiles and runs models in both frameworks")
@pytest.mark.parametrize(("name", "arguments"), TWINS, ids=[name for name, _ in TWINS])
def test_gradients_of_twins_agree(
    name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mapping = twin_files(name, tmp_path)
    sides = ["--torch", f"{TORCH}:{name}", "--jax", f"{JAX}:{name}", "--checkpoint", str(model)]
    report = tmp_path / "parity.html"
    options = ["--mapping", str(mapping), "--gradients", "--report", str(report)]
    assert run(["check", *sides, *options, *arguments]) == 0
    out = capsys.readouterr().out
    assert "parameters agree, least " in out
    assert "gradient" in out.splitlines()[-1] or "gradient" in out
    assert "<h2>Gradients</h2>" in report.read_text()
