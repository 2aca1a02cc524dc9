"""The forward decides doubtful rows and puts faults right, or leaves them doubtful and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s2p_tui.cli import run
from tests.cli.twin_files import JAX, TORCH, swap_rows, twin_files

MODELS = """
import equinox as eqx
import jax
import torch
from torch import nn

class Torch(nn.Module):
    def __init__(self, form="plain"):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.form = form
    def forward(self, x):
        if self.form == "sum":
            return self.a(x) + self.b(x)
        if self.form == "unheard":
            return self.a(x) + 0 * self.b(x)
        if self.form == "dead":
            return self.b(torch.relu(self.a(x) - 1e3))
        return self.b(torch.relu(self.a(x)))

class Jax(eqx.Module):
    one: eqx.nn.Linear
    two: eqx.nn.Linear
    form: str = eqx.field(static=True)
    def __init__(self, form="plain", *, key):
        first, second = jax.random.split(key)
        self.one = eqx.nn.Linear(6, 6, key=first)
        self.two = eqx.nn.Linear(6, 6, key=second)
        self.form = form
    def __call__(self, x):
        if self.form == "sum":
            return self.one(x) + self.two(x)
        if self.form == "unheard":
            return self.one(x) + 0 * self.two(x)
        if self.form == "dead":
            return self.two(jax.nn.relu(self.one(x) - 1e3))
        if self.form == "other":
            return self.two(jax.nn.gelu(self.one(x)))
        return self.two(jax.nn.relu(self.one(x)))
"""


def _settle(
    folder: Path, capsys: pytest.CaptureFixture[str], forms: tuple[str, str]
) -> tuple[int, dict[str, Any]]:
    """Settle a pair whose names say nothing; the exit status and the JSON object."""
    models = folder / "models_of_two.py"
    models.write_text(MODELS)
    sides = ["--torch", f"{models}:Torch", "--jax", f"{models}:Jax"]
    kwargs = [json.dumps({"form": form}) for form in forms]
    status = run(
        [
            "check", *sides, "--torch-kwargs", kwargs[0], "--jax-kwargs", kwargs[1],
            "--shape", "6", "--batch", "4", "--settle", "--save-mapping", str(folder / "m.json"),
            "--json",
        ]
    )  # fmt: skip
    return status, json.loads(capsys.readouterr().out)


def _paths(rows: list[dict[str, Any]]) -> list[str]:
    return [row["path"] for row in rows]


ALL = [".one.weight", ".one.bias", ".two.weight", ".two.bias"]


def test_rows_that_only_their_order_speaks_for_are_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = _settle(tmp_path, capsys, ("plain", "plain"))
    assert (status, _paths(found["settled"]), found["open"]) == (0, ALL, [])
    assert found["repaired"] == []
    assert all("next best" in row["why"] for row in found["settled"])
    rows = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert {row["by"] for row in rows} == {"forward"}
    assert all(f"inputs {found['inputs']}" in row["why"] for row in rows)


@pytest.mark.parametrize(
    ("form", "settled", "why"),
    [
        ("sum", [], "exchanged with .two.weight it does as well"),
        ("unheard", ALL[:2], "nothing outside .two depends"),
        ("dead", ALL[3:], "depends"),
    ],
)
def test_what_makes_no_difference_is_not_settled(
    form: str,
    settled: list[str],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, found = _settle(tmp_path, capsys, (form, form))
    assert (status, _paths(found["settled"])) == (0, settled)
    assert _paths(found["open"]) == [path for path in ALL if path not in settled]
    assert any(why in row["why"] for row in found["open"])


@pytest.mark.slow("makes or compiles models")
def test_models_that_differ_otherwise_settle_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = _settle(tmp_path, capsys, ("plain", "other"))
    assert (status, found["status"], found["settled"], found["mapping"]) == (6, "differ", [], None)
    assert not (tmp_path / "m.json").exists()


@pytest.mark.slow("compiles and runs models in both frameworks")
def test_a_mapping_that_was_put_right_needs_no_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mapping = twin_files("blocks", tmp_path)
    right = json.loads(mapping.read_text())["rows"]
    swap_rows(mapping, "layers.1.fc2.weight", "layers.2.fc2.weight")
    fixed = tmp_path / "fixed.json"
    sides = ["--torch", f"{TORCH}:blocks", "--jax", f"{JAX}:blocks", "--checkpoint", str(model)]
    arguments = ["--mapping", str(mapping), "--shape", "4", "--settle", "--progress"]
    assert run(["check", *sides, *arguments, "--save-mapping", str(fixed)]) == 0
    out, err = capsys.readouterr()
    assert "repaired: .blocks[1].down.weight: layers.1.fc2.weight" in out
    assert "settled .blocks[2].down.weight ← layers.2.fc2.weight: forward: agrees within " in out
    assert any("total" in json.loads(line) for line in err.splitlines())
    rows = json.loads(fixed.read_text())["rows"]
    assert [row["sources"] for row in rows] == [row["sources"] for row in right]

    skeleton, certificate = tmp_path / "skeleton.eqx", tmp_path / "certificate.json"
    output = ["-o", str(tmp_path / "model.eqx"), "--certificate", str(certificate)]
    assert run(["convert", str(model), str(skeleton), "--mapping", str(fixed), *output]) == 0
    leaves = {leaf["path"]: leaf for leaf in json.loads(certificate.read_text())["leaves"]}
    leaf = leaves[".blocks[1].down.weight"]
    assert leaf["by"] == "forward"
    assert leaf["why"].startswith("forward: agrees within ")
    assert "both models were run" in leaf["proof"]["entry"]


def test_a_mapping_is_saved_where_something_is_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--shape", "4", "--save-mapping", str(tmp_path / "m.json")]
    assert run(["check", "--torch", f"{TORCH}:linear", "--jax", f"{JAX}:linear", *arguments]) == 2
    assert "--save-mapping goes with --settle alone." in capsys.readouterr().err


CELLS = """
import equinox as eqx
import jax
import jax.numpy as jnp
from torch import nn

class Torch(nn.Module):
    def __init__(self, kind="LSTM"):
        super().__init__()
        self.cell = getattr(nn, kind + "Cell")(5, 6, bias=False)
    def forward(self, x):
        state = None
        for _ in range(2):
            state = self.cell(x, state)
        return state[0] if isinstance(state, tuple) else state

class Cell(eqx.Module):
    weight_ih: jax.Array
    weight_hh: jax.Array
    def __init__(self, kind, rows):
        gates = {"LSTM": 4, "GRU": 3}[kind]
        sizes = (gates * 6, 5), (gates * 6, 6)
        self.weight_ih, self.weight_hh = (
            jnp.zeros(size if rows else size[::-1]) for size in sizes
        )

class Jax(eqx.Module):
    cell: Cell
    kind: str = eqx.field(static=True)
    rows: bool = eqx.field(static=True)
    def __init__(self, kind="LSTM", rows=True):
        self.kind, self.rows, self.cell = kind, rows, Cell(kind, rows)
    def __call__(self, x):
        h = c = jnp.zeros(6)
        ih, hh = self.cell.weight_ih, self.cell.weight_hh
        if not self.rows:
            ih, hh = ih.T, hh.T
        for _ in range(2):
            parts = 4 if self.kind == "LSTM" else 3
            a, b = jnp.split(ih @ x, parts), jnp.split(hh @ h, parts)
            if self.kind == "LSTM":
                o, g, i, f = (one + other for one, other in zip(a, b))
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
            else:
                z, r = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
                h = (1 - z) * jnp.tanh(a[2] + r * b[2]) + z * h
        return h
"""


@pytest.mark.slow("compiles and runs models in both frameworks")
@pytest.mark.parametrize(("kind", "rows"), [("LSTM", True), ("LSTM", False), ("GRU", True)])
def test_gates_in_another_order_are_put_right_in_all_leaves_together(
    kind: str, rows: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell of the user's own, under PyTorch's names: no name shows the order."""
    models = tmp_path / f"cells_{kind}_{rows}.py"
    models.write_text(CELLS)
    sides = ["--torch", f"{models}:Torch", "--jax", f"{models}:Jax", "--shape", "5"]
    kwargs = [json.dumps(given) for given in ({"kind": kind}, {"kind": kind, "rows": rows})]
    arguments = ["--torch-kwargs", kwargs[0], "--jax-kwargs", kwargs[1], "--settle", "--json"]
    assert run(["check", *sides, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert _paths(found["settled"]) == [".cell.weight_ih", ".cell.weight_hh"]
    order = "4, 3, 1, 2" if kind == "LSTM" else "2, 1, 3"
    (repair,) = found["repaired"]
    assert repair == f"the {len(order.split())} parts of .cell as {order}"
