"""Models of Flax as targets: names, layers, shared variables, PRNG state, factories."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

import s2p_tui
from s2p_tui import AlignmentError, convert_tree
from s2p_tui.cli import run
from s2p_tui.errors import S2PError, UsageError
from s2p_tui.formats.skeleton_file import open_target

KEY = jax.random.key(0)


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.lin = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([Block(rngs) for _ in range(12)])
        self.first = self.blocks[0].lin
        self.head = nnx.Linear(4, 3, use_bias=False, rngs=rngs)
        self.named = nnx.Dict({"a": nnx.Linear(1, 2, rngs=rngs)})
        self.scale = nnx.Param(jnp.ones(4))
        self.both = nnx.Param({"x": jnp.zeros(2), "y": [jnp.zeros(3)]})
        self.array = nnx.data(jnp.zeros(5))
        self.pair = nnx.Sequential(nnx.Linear(2, 2, rngs=rngs), nnx.relu)


def model() -> Model:
    return Model(nnx.Rngs(0))


def owners(pytree: Any, folder: Path) -> Mapping[str, str | None]:
    made = s2p_tui.save_skeleton(folder / "owners.eqx", pytree)
    return {leaf.path: leaf.owner for leaf in made}


@pytest.mark.slow("makes models of other libraries")
def test_leaves_are_called_as_the_user_reaches_them(tmp_path: Path) -> None:
    found = owners(model(), tmp_path)
    assert list(found)[:3] == [".array", ".blocks[0].lin.bias", ".blocks[0].lin.kernel"]
    blocks = [path for path in found if path.startswith(".blocks") and path.endswith("bias")]
    assert blocks == [f".blocks[{n}].lin.bias" for n in range(12)]
    assert ".named.a.kernel" in found
    assert {".both['x']", ".both['y'][0]", ".scale", ".pair.layers[0].kernel"} <= set(found)


@pytest.mark.slow("makes models of other libraries")
def test_a_shared_variable_is_one_leaf_and_stays_shared(tmp_path: Path) -> None:
    found = owners(model(), tmp_path)
    assert not [path for path in found if path.startswith(".first")]

    class Tied(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.a = nnx.Linear(3, 3, rngs=rngs)
            self.b = self.a
            self.c = nnx.Linear(3, 3, rngs=rngs)
            self.c.bias = self.a.bias

    state = {"a.weight": torch.ones(3, 3), "a.bias": torch.ones(3), "c.weight": torch.ones(3, 3)}
    converted = convert_tree(state, Tied(nnx.Rngs(0)))
    assert converted.b is converted.a
    assert converted.c.bias is converted.a.bias
    assert converted.a.kernel[...].tolist() == [[1.0] * 3] * 3


def test_layers_have_classes_and_settings(tmp_path: Path) -> None:
    found = owners(model(), tmp_path)
    assert found[".blocks[3].lin.kernel"] == "flax.nnx.Linear"
    assert found[".pair.layers[0].kernel"] == "flax.nnx.Linear"
    assert found[".named.a.kernel"] == "flax.nnx.Linear"
    assert (found[".scale"] or "").endswith("Model")
    skeleton = open_target(tmp_path / "owners.eqx").skeleton
    config = skeleton[skeleton.index(".head.kernel")].config
    assert config == {"in_features": 4, "out_features": 3, "use_bias": False}


def test_modes_are_no_settings(tmp_path: Path) -> None:
    """A mapping made for a model in training is one for the same model in evaluation."""
    made = [nnx.BatchNorm(3, use_running_average=mode, rngs=nnx.Rngs(0)) for mode in (True, False)]
    first, second = (s2p_tui.save_skeleton(tmp_path / "s.eqx", one) for one in made)
    assert first.classes == second.classes


def test_state_of_generators_is_kept(tmp_path: Path) -> None:
    made = s2p_tui.save_skeleton(tmp_path / "s.eqx", model())
    drawn = {f".blocks[{n}].drop.rngs.{name}" for n in range(12) for name in ("count", "key")}
    assert set(made.keys) == drawn
    assert not drawn & {leaf.path for leaf in made}
    assert open_target(tmp_path / "s.eqx").skeleton.keys == made.keys


def test_what_was_converted_draws_for_itself() -> None:
    old = Block(nnx.Rngs(3))
    new = convert_tree({"lin.weight": torch.ones(4, 4), "lin.bias": torch.ones(4)}, old)
    x = jnp.ones((100,))
    assert new.drop(x).tolist() == old.drop(x).tolist()
    new.drop(x)
    assert int(new.drop.rngs.count[...]) == int(old.drop.rngs.count[...]) + 1


def test_a_mapping_of_the_module_follows_for_its_state(tmp_path: Path) -> None:
    network = nn.ModuleDict({"lin": nn.Linear(4, 4)}).state_dict()
    torch.save(network, tmp_path / "m.pt")
    s2p_tui.save_skeleton(tmp_path / "s.eqx", Block(nnx.Rngs(0)))
    files = [str(tmp_path / name) for name in ("m.pt", "s.eqx")]
    mapping = str(tmp_path / "m.json")
    out = str(tmp_path / "o.eqx")
    assert run(["convert", *files, "-o", out, "--save-mapping", mapping]) == 0
    converted = convert_tree(network, Block(nnx.Rngs(0)), mapping=mapping)
    assert np.array_equal(converted.lin.kernel[...], network["lin.weight"].T)


def test_a_module_that_cannot_be_split_is_named() -> None:
    class Odd(nnx.Module):
        def __init__(self) -> None:
            self.lin = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    odd = Odd()
    object.__setattr__(odd, "lin", object())
    vars(odd)["_pytree__nodes"] = None
    with pytest.raises(UsageError, match="Odd cannot be split"):
        convert_tree({"lin.weight": torch.ones(2, 2)}, odd)


class Torch(nn.Module):
    def __init__(self, make: Any, names: tuple[str, ...] = ("c_fc", "c_proj", "c_attn")) -> None:
        super().__init__()
        sizes = {"c_fc": (4, 16), "c_proj": (16, 4), "c_attn": (4, 4)}
        self.h = nn.ModuleList(
            [nn.ModuleDict({name: make(*sizes[name]) for name in names}) for _ in range(2)]
        )


class Conv1D(nn.Module):
    """GPT-2's layer, which holds its weight input axis first."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, out))
        self.bias = nn.Parameter(torch.randn(out))


class Gpt(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, names: tuple[str, ...]) -> None:
        sizes = {"c_fc": (4, 16), "c_proj": (16, 4), "c_attn": (4, 4)}
        self.h = nnx.List(
            [
                nnx.Dict({name: nnx.Linear(*sizes[name], rngs=rngs) for name in names})
                for _ in range(2)
            ]
        )


@pytest.mark.parametrize("make", [nn.Linear, Conv1D])
@pytest.mark.slow("makes models of other libraries")
def test_names_that_say_input_first_are_settled_by_sizes(make: Any) -> None:
    names = ("c_fc", "c_proj", "c_attn")
    state = Torch(make).state_dict()
    converted = convert_tree(state, Gpt(nnx.Rngs(0), names))
    for name in names:
        weight = state[f"h.1.{name}.weight"]
        expected = weight if make is Conv1D else weight.T
        assert np.array_equal(converted.h[1][name].kernel[...], expected), name


@pytest.mark.parametrize("make", [nn.Linear, Conv1D])
def test_or_left_open(make: Any) -> None:
    state = Torch(make, ("c_attn",)).state_dict()
    with pytest.raises(AlignmentError, match="nothing shows whether it is transposed"):
        convert_tree(state, Gpt(nnx.Rngs(0), ("c_attn",)))


@pytest.mark.slow("makes models of other libraries")
def test_what_a_flattened_image_goes_into_is_doubtful() -> None:
    class Images(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.fc = nnx.Linear(64, 10, rngs=rngs)

    network = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "fc": nn.Linear(64, 10)})
    with pytest.raises(AlignmentError, match=r"\.fc\.kernel: .*may be a flattened image"):
        convert_tree(network.state_dict(), Images(nnx.Rngs(0)))


@pytest.mark.slow("makes models of other libraries")
def test_a_bias_that_nnx_has_no_place_for_is_not_dropped() -> None:
    class Series(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.gru = nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs), rngs=rngs)

    network = nn.ModuleDict({"gru": nn.GRU(3, 4)})
    with pytest.raises(AlignmentError, match=r"no row takes the rest of gru\.bias_hh_l0.*GRUCell"):
        convert_tree(network.state_dict(), Series(nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("layer", "flax_layer"),
    [
        (
            lambda: nn.ConvTranspose2d(4, 4, 3, groups=2),
            lambda rngs: nnx.ConvTranspose(4, 4, (3, 3), rngs=rngs),
        ),
        (lambda: nn.Conv2d(2, 4, 3), lambda rngs: nnx.ConvTranspose(2, 4, (3, 3), rngs=rngs)),
        (lambda: nn.Conv2d(3, 4, (2, 3)), lambda rngs: nnx.Conv(3, 4, (3, 2), rngs=rngs)),
        (lambda: nn.Linear(3, 4), lambda rngs: nnx.Linear(4, 3, rngs=rngs)),
        (lambda: nn.LSTM(4, 4, 2), lambda rngs: nnx.LSTMCell(4, 4, rngs=rngs)),
        (
            lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
            lambda rngs: nnx.MultiHeadAttention(2, 4, rngs=rngs),
        ),
        (lambda: nn.GRU(4, 4), lambda rngs: nnx.LSTMCell(4, 4, rngs=rngs)),
    ],
)
def test_layers_that_are_none_of_pytorchs_are_refused(layer: Any, flax_layer: Any) -> None:
    class Holder(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layer = flax_layer(rngs)

    with pytest.raises(S2PError):
        convert_tree(nn.ModuleDict({"layer": layer()}).state_dict(), Holder(nnx.Rngs(0)))


FACTORIES = """
import jax, jax.numpy as jnp
from flax import linen, nnx


class Net(nnx.Module):
    def __init__(self, width: int = 4, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


def with_key(key):
    return Net(rngs=nnx.Rngs(key))


def alone():
    return Net(rngs=nnx.Rngs(3))


ready = alone()


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4, name="lin")(x)


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, x):
        body = lambda module, x, _: (module(x), None)
        lin = linen.Dense(4, name="lin")
        scan = linen.scan(body, {"params": 0}, split_rngs={"params": True}, length=3)
        return scan(lin, x, None)[0]


class Other(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.DenseGeneral(4, name="lin")(x)


def variables(make=Dense):
    return make().init(jax.random.key(0), jnp.ones((1, 4)))


def scanned():
    return variables(Scanned)


def two():
    variables(Other)
    return variables()


dense = Dense()


def broken(rngs):
    raise ValueError("no luck")
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flax_net.py"
    path.write_text(FACTORIES)
    return path


@pytest.mark.parametrize("options", [[], ["--no-values"]])
@pytest.mark.parametrize("factory", ["Net", "with_key", "alone"])
def test_factories_of_nnx(factory: str, options: list[str], net: Path) -> None:
    assert run(["skeleton", f"{net}:{factory}", "-o", "s.eqx", *options]) == 0
    skeleton = open_target("s.eqx").skeleton
    assert [(leaf.path, leaf.owner) for leaf in skeleton] == [
        (".lin.bias", "flax.nnx.Linear"),
        (".lin.kernel", "flax.nnx.Linear"),
    ]
    assert skeleton.keys == (".drop.rngs.count", ".drop.rngs.key")
    assert [leaf.has_value for leaf in skeleton] == [not options] * 2


def test_arguments_of_factories(net: Path) -> None:
    assert run(["skeleton", f"{net}:Net", "--kwargs", '{"width": 7}', "-o", "s.eqx"]) == 0
    assert open_target("s.eqx").skeleton[1].shape == (7, 7)
    assert run(["skeleton", f"{net}:ready", "-o", "s.eqx"]) == 0
    assert len(open_target("s.eqx").skeleton) == 2


@pytest.mark.parametrize("options", [[], ["--no-values"]])
def test_factories_of_linen(options: list[str], net: Path) -> None:
    assert run(["skeleton", f"{net}:variables", "-o", "s.eqx", *options]) == 0
    skeleton = open_target("s.eqx").skeleton
    assert [(leaf.path, leaf.owner) for leaf in skeleton] == [
        ("['params']['lin']['bias']", "flax.linen.Dense"),
        ("['params']['lin']['kernel']", "flax.linen.Dense"),
    ]


@pytest.mark.parametrize("factory", ["scanned", "two"])
@pytest.mark.slow("makes models of other libraries")
def test_variables_that_no_one_layer_holds_have_none(factory: str, net: Path) -> None:
    assert run(["skeleton", f"{net}:{factory}", "-o", "s.eqx"]) == 0
    assert [leaf.owner for leaf in open_target("s.eqx").skeleton] == [None, None]


def test_a_square_kernel_without_its_layer_is_doubtful(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(nn.ModuleDict({"lin": nn.Linear(4, 4)}).state_dict(), "m.pt")
    for factory, status in (("two", 3), ("variables", 0)):
        run(["skeleton", f"{net}:{factory}", "-o", f"{factory}.eqx"])
        assert run(["convert", "m.pt", f"{factory}.eqx", "-o", f"o_{factory}.eqx"]) == status
    assert "nothing shows whether it is transposed" in capsys.readouterr().err
    made = runpy.run_path(str(net))["variables"]()
    state = torch.load("m.pt", weights_only=True)
    with pytest.raises(AlignmentError, match="nothing shows whether it is transposed"):
        convert_tree(state, made)


@pytest.mark.parametrize("factory", ["dense", "Dense"])
def test_a_module_of_linen_holds_nothing(
    factory: str, net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["skeleton", f"{net}:{factory}", "-o", "s.eqx"]) == 2
    told = capsys.readouterr().err
    assert "Dense is a flax.linen.Module, which holds no variables" in told
    assert "model.init(key, x)" in told
    with pytest.raises(UsageError, match="holds no variables"):
        convert_tree({"w": torch.ones(1)}, linen.Dense(3))


def test_a_factory_that_fails_says_so(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--no-values"]):
        assert run(["skeleton", f"{net}:broken", "-o", "s.eqx", *options]) == 4
        assert "raised ValueError: no luck" in capsys.readouterr().err


def test_a_loader_of_its_own_fills_a_state(net: Path) -> None:
    network = nn.ModuleDict({"lin": nn.Linear(4, 4)}).state_dict()
    torch.save(network, "m.pt")
    assert run(["skeleton", f"{net}:Net", "-o", "s.eqx"]) == 0
    assert run(["convert", "m.pt", "s.eqx", "-o", "o.eqx", "--save-mapping", "m.json"]) == 0
    assert run(["eject", "m.json", "--skeleton", "s.eqx", "-o", "load_model.py"]) == 0
    load = runpy.run_path("load_model.py")["load"]
    made = runpy.run_path(str(net))["alone"]()
    nnx.update(made, load("m.pt", nnx.state(made, nnx.Not(nnx.RngState))))
    assert np.array_equal(made.lin.kernel[...], network["lin.weight"].T)


def test_export_takes_a_module(net: Path) -> None:
    network = nn.ModuleDict({"lin": nn.Linear(4, 4)}).state_dict()
    torch.save(network, "m.pt")
    assert run(["skeleton", f"{net}:Net", "-o", "s.eqx"]) == 0
    assert run(["convert", "m.pt", "s.eqx", "-o", "o.eqx", "--save-mapping", "m.json"]) == 0
    converted = convert_tree(network, runpy.run_path(str(net))["alone"]())
    back = s2p_tui.export(converted, "m.json")
    assert {key: value.tolist() for key, value in back.items()} == {
        key: value.tolist() for key, value in network.items()
    }


def test_the_listing_names_layers(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", f"{net}:variables", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {one["owner"] for one in listed["leaves"]} == {"flax.linen.Dense"}
