"""`s2p-tui check` with models of Flax on the JAX side, against PyTorch's own forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import linen, nnx
from torch import nn

from s2p_tui.cli import run
from tests.models.flax_networks import NETWORKS, torch_network, variables

HERE, THERE = "tests.cli.test_check_flax", "tests.models.flax_networks"
INPUTS = {
    "Images": ["--shape", "3x8x8"],
    "Tokens": ["--shape", "6", "--dtype", "int64", "--below", "6"],
    "Series": ["--shape", "5x4"],
}


def linen_pair(name: str) -> Any:
    return NETWORKS[name].linen, variables(name)


def linen_bound(name: str) -> Any:
    return NETWORKS[name].linen.bind(variables(name))


FACTORIES = {
    "nnx": lambda name: ["--jax", f"{THERE}:Nnx{name}"],
    "pair": lambda name: [f"--jax={HERE}:linen_pair", f'--jax-kwargs={{"name": "{name}"}}'],
    "bound": lambda name: [f"--jax={HERE}:linen_bound", f'--jax-kwargs={{"name": "{name}"}}'],
}


class Plain(nn.Module):
    """Convolutions from images to images; with dropout, and a norm of its batch."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.norm.running_mean += torch.randn(width)

    def forward(self, x: Any) -> Any:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


class NnxPlain(nnx.Module):
    """As Flax has it: channels last, and in training until it is told otherwise."""

    def __init__(self, rngs: nnx.Rngs, width: int = 6) -> None:
        self.first = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, epsilon=1e-5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Conv(width, 3, (3, 3), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


class LinenPlain(linen.Module):
    width: int = 6

    @linen.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = linen.Conv(self.width, (3, 3), name="first")(x)
        x = linen.BatchNorm(not train, epsilon=1e-5, name="norm")(x)
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(x))
        return linen.Conv(3, (3, 3), name="last")(x)


def linen_plain() -> Any:
    module = LinenPlain()
    return module, module.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)), train=False)


def module_alone() -> Any:
    return LinenPlain()


class Uncalled(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(3, 3, rngs=rngs)


def check(torch_form: str, *arguments: str) -> int:
    return run(["check", "--torch", torch_form, *arguments])


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_twins_agree(
    kind: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch_network(name).state_dict(), "model.pt")
    options = ["--checkpoint", "model.pt", "--json", "--modules", *INPUTS[name]]
    assert check(f"{THERE}:{name}", *FACTORIES[kind](name), *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "agree"
    assert found["relative_difference"] < 1e-5
    assert len(found["modules"]) >= 2
    assert all(module["agrees"] for module in found["modules"])


PLAIN = ["--jax", f"{HERE}:NnxPlain"], ["--jax", f"{HERE}:linen_plain"]


@pytest.mark.parametrize("jax_side", PLAIN, ids=["nnx", "linen"])
@pytest.mark.parametrize("batch", ["3", "1"])
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_channels_are_where_flax_wants_them(
    jax_side: list[str], batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In and out, and inference is switched on; every size of the input is the same."""
    options = ["--shape", "3x3x3", "--batch", batch, "--modules", "--gradients", "--json"]
    assert check(f"{HERE}:Plain", *jax_side, *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["key"] for one in found["gradients"]} == {
        f"{layer}.{end}" for layer in ("first", "norm", "last") for end in ("weight", "bias")
    }
    assert found["relative_difference"] < 1e-5
    assert {one["torch"] for one in found["modules"]} == {"first", "norm", "last"}
    assert all(module["agrees"] for module in found["modules"])


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_torch_and_flax_get_one_example_without_its_axis(kind: str) -> None:
    options = ["--shape", "5x4", "--batch", "0"]
    assert check(f"{THERE}:Series", *FACTORIES[kind]("Series"), *options) == 0


STATISTICS = "norms.0.running_mean", "norms.1.running_mean"


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_a_wrong_row_is_found_and_settled(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The mapping is that of the skeleton, of which Linen's is made of the variables alone."""
    monkeypatch.chdir(tmp_path)
    torch.save(torch_network("Images").state_dict(), "model.pt")
    skeleton = "NnxImages" if kind == "nnx" else "linen_images"
    assert run(["skeleton", f"{THERE}:{skeleton}", "--no-values", "-o", "s.eqx"]) == 0
    options = ["-o", "m.safetensors", "--save-mapping", "right.json"]
    assert run(["convert", "model.pt", "s.eqx", *options]) == 0
    content = json.loads(Path("right.json").read_text())
    rows = {row["sources"][0]: row for row in content["rows"] if len(row["sources"]) == 1}
    one, two = (rows[key] for key in STATISTICS)
    one["sources"], two["sources"] = two["sources"], one["sources"]
    Path("wrong.json").write_text(json.dumps(content))
    capsys.readouterr()

    ends = [f"{THERE}:Images", *FACTORIES[kind]("Images"), "--checkpoint", "model.pt"]
    wrong = [*ends, "--mapping", "wrong.json", "--json", *INPUTS["Images"]]
    assert check(*wrong, "--trust-all") == 6
    found = json.loads(capsys.readouterr().out)
    # Linen's statistics are in a collection of their own, so its norm is judged by what it returns.
    assert found["first_difference"]["torch"] == "norms.0"
    assert check(*wrong, "--settle", "--save-mapping", "fixed.json") == 0
    assert len(json.loads(capsys.readouterr().out)["settled"]) == 2
    assert run(["convert", "model.pt", "s.eqx", "-o", "f.eqx", "--mapping", "fixed.json"]) == 0


REFUSED = {
    "module_alone": "holds no variables. Give the factory of (module, variables)",
    "Uncalled": "cannot be called",
    "variables_alone": "cannot be called",
}


def variables_alone() -> Any:
    return linen_plain()[1]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.slow("makes or compiles models")
def test_what_cannot_be_called_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(f"{HERE}:Plain", "--jax", f"{HERE}:{name}", "--shape", "3x4x4") == 4
    said = capsys.readouterr().err
    assert REFUSED[name] in said
    assert said.startswith("s2p-tui: The JAX side: ")


@pytest.mark.parametrize("kind", ["pair", "bound"])
@pytest.mark.parametrize("values", [[], ["--no-values"]], ids=["values", "abstract"])
@pytest.mark.slow("makes or compiles models")
def test_a_skeleton_of_a_linen_model_is_that_of_its_variables(
    kind: str, values: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (factory, kwargs) = FACTORIES[kind]("Series")
    factory = factory.partition("=")[2]
    kwargs = kwargs.partition("=")[2]
    assert run(["skeleton", factory, "--kwargs", kwargs, *values, "-o", "s.eqx"]) == 0
    assert run(["skeleton", f"{THERE}:linen_series", *values, "-o", "other.eqx"]) == 0
    assert Path("s.eqx").read_bytes() == Path("other.eqx").read_bytes()
