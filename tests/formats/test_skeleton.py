"""From pytrees and the user's own factories to leaves."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
import torch

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.pytree.factory import call_factory
from s2p_tui.formats.pytree.skeleton import save_skeleton, target_of
from s2p_tui.formats.skeleton_file import open_target
from s2p_tui.session.opening import open_any_target
from tests.helpers.trees import Net, net_with_state

KEY = jax.random.PRNGKey(0)


def leaves_of(tree: Any) -> dict[str, Leaf]:
    return {leaf.path: leaf for leaf in target_of(tree, "tree").skeleton}


@pytest.mark.parametrize("name", ["module", "pair", "tree"])
@pytest.mark.slow("makes models of other libraries")
def test_plain_equinox_loads_what_follows_the_first_line(tmp_path: Path, name: str) -> None:
    made = {"module": eqx.nn.MLP(2, 3, 4, 2, key=KEY), "pair": net_with_state(), "tree": [1, 2.5]}
    tree = made[name]
    path = tmp_path / "s.eqx"
    save_skeleton(path, tree)
    with path.open("rb") as stream:
        stream.readline()
        loaded = eqx.tree_deserialise_leaves(stream, tree)
        assert stream.read() == b""
    assert eqx.tree_equal(loaded, tree)


def test_state_leaves_are_named_by_their_markers() -> None:
    names = list(leaves_of(net_with_state()))
    state = [name for name in names if "index" in name or "counter" in name or "hidden" in name]
    assert all("norms" in name for name in state)
    assert [name for name in names if name.endswith("ema_first_time_index")] == [
        "[1].norms[0].ema_first_time_index"
    ]
    assert len(set(names)) == len(names)


def test_state_still_inside_is_taken_apart_and_the_model_left_alone(tmp_path: Path) -> None:
    model = Net(key=KEY)
    before = jtu.tree_leaves(model)
    save_skeleton(tmp_path / "inline.eqx", model)
    save_skeleton(tmp_path / "apart.eqx", net_with_state())
    assert (tmp_path / "inline.eqx").read_bytes() == (tmp_path / "apart.eqx").read_bytes()
    after = jtu.tree_leaves(model)
    assert len(before) == len(after)
    assert all(old is new for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("make", [net_with_state, lambda: Net(key=KEY)])
def test_abstract_trees_are_skeletons_without_values(tmp_path: Path, make: Any) -> None:
    save_skeleton(tmp_path / "s.eqx", eqx.filter_eval_shape(make))
    target = open_target(tmp_path / "s.eqx")
    expected = leaves_of(net_with_state())
    assert [(leaf.path, leaf.shape, leaf.dtype) for leaf in target.skeleton] == [
        (leaf.path, leaf.shape, leaf.dtype) for leaf in expected.values()
    ]
    assert {leaf.path: leaf.has_value for leaf in target.skeleton} == {
        path: leaf.kind == "scalar" for path, leaf in expected.items()
    }


def test_without_values_only_scalars_are_kept(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "s.eqx", net_with_state(), values=False)
    target = open_target(tmp_path / "s.eqx")
    kept = [leaf.path for leaf in target.skeleton if leaf.has_value]
    assert kept == [leaf.path for leaf in target.skeleton if leaf.kind == "scalar"]
    assert float(target.values.read("[0].dropout.p", ())) == 0.25
    target.values.close()


@pytest.mark.parametrize("leaf", [np.array([None]), np.array(["a"]), np.zeros(2, ">f4"), 2**70])
def test_leaves_that_cannot_be_saved_are_refused_by_name(tmp_path: Path, leaf: Any) -> None:
    with pytest.raises(UsageError, match=r"cannot save these leaves: \['bad'\] is"):
        save_skeleton(tmp_path / "s.eqx", {"bad": leaf, "good": 1.0})
    assert list(tmp_path.iterdir()) == []


class Wider(eqx.nn.Linear):
    """A user's own subclass of a layer."""


class Mapped(eqx.nn.Linear):
    """Another one, whose `__call__` calls the layer's."""

    def __call__(self, x: Any) -> Any:
        return jax.vmap(lambda row: super(Mapped, self).__call__(row))(x)


class Turned(eqx.nn.Linear):
    """One that computes something else with the layer's weight."""

    @jax.named_scope("turned")
    def __call__(self, x: Any) -> Any:
        return x @ self.weight


class InTurn(Turned):
    """A subclass of such a class."""


class Cropped(eqx.nn.ConvTranspose1d):
    """A layer with a rule, in a user's own words."""

    def __call__(self, x: Any) -> Any:
        return x


OWNERS: list[tuple[Callable[[], Any], str, str, dict[str, Any]]] = [
    (lambda: eqx.nn.Conv2d(4, 6, 3, groups=2, key=KEY), ".weight", "Conv", {"groups": 2}),
    (
        lambda: eqx.nn.ConvTranspose1d(4, 6, 3, stride=2, key=KEY),
        ".bias",
        "ConvTranspose",
        {"stride": [2], "groups": 1},
    ),
    (
        lambda: eqx.nn.MultiheadAttention(3, 6, key=KEY),
        ".query_proj.weight",
        "Linear",
        {"in_features": 6},
    ),
    (lambda: Wider(2, 3, key=KEY), ".weight", "Linear", {"out_features": 3}),
    (lambda: Mapped(2, 3, key=KEY), ".weight", "Linear", {"out_features": 3}),
    (lambda: Cropped(2, 3, 3, key=KEY), ".weight", "ConvTranspose", {"groups": 1}),
    (lambda: net_with_state(("batch",)), "[0].norms[0].weight", "BatchNorm", {"mode": "batch"}),
    (
        lambda: {"a": [eqx.nn.LayerNorm(3)]},
        "['a'][0].weight",
        "LayerNorm",
        {"shape": [3], "eps": 1e-5},
    ),
]


@pytest.mark.parametrize(("make", "path", "owner", "config"), OWNERS)
def test_owners_and_what_matters_of_them(
    tmp_path: Path, make: Callable[[], Any], path: str, owner: str, config: dict[str, Any]
) -> None:
    save_skeleton(tmp_path / "s.eqx", make())
    skeleton = open_target(tmp_path / "s.eqx").skeleton
    leaf = skeleton[skeleton.index(path)]
    assert leaf.owner in (f"equinox.nn.{owner}", f"equinox.nn.{owner}2d", f"equinox.nn.{owner}1d")
    assert {name: leaf.config.get(name) for name in config} == config


@pytest.mark.parametrize("layer", [Turned, InTurn])
def test_a_subclass_that_computes_itself_is_a_class_of_its_own(
    tmp_path: Path, layer: type[Any]
) -> None:
    save_skeleton(tmp_path / "s.eqx", layer(2, 3, key=KEY))
    leaf = open_target(tmp_path / "s.eqx").skeleton[0]
    assert leaf.owner == f"{layer.__module__}.{layer.__name__}"


def test_state_leaves_have_the_layers_owner() -> None:
    leaf = leaves_of(net_with_state(("ema",)))["[1].norms[0].ema_first_time_index"]
    assert leaf.owner == "equinox.nn.BatchNorm"
    assert leaf.config["mode"] == "ema"


def test_names_for_a_plain_eqx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = net_with_state()
    eqx.tree_serialise_leaves(tmp_path / "plain.eqx", pair)
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import equinox as eqx\n"
        "from tests.helpers.trees import net_with_state\n"
        "def other(): return eqx.nn.Linear(2, 2, key=__import__('jax').random.PRNGKey(0))\n"
    )
    target = open_any_target("plain.eqx", "nets.py:net_with_state")
    expected = leaves_of(pair)
    assert [leaf.path for leaf in target.skeleton] == list(expected)
    assert all(leaf.has_value for leaf in target.skeleton)
    weight = target.values.read("[0].conv.weight", ((0, 3), (0, 2), (0, 3), (0, 3)))
    assert np.array_equal(weight, pair[0].conv.weight)
    target.values.close()
    with pytest.raises(InputError, match="leaf 0 is the first that differs"):
        open_any_target("plain.eqx", "nets.py:other")
    with pytest.raises(UsageError, match="names its own leaves"):
        open_any_target("nets.py:net_with_state", "nets.py:other")


FACTORIES = """
import equinox as eqx, jax
class holder:
    made = eqx.nn.Linear(2, 3, key=jax.random.PRNGKey(0))
def net(depth=1, *, key): return eqx.nn.MLP(2, 3, 4, depth, key=key)
def broken(): raise RuntimeError("no weights\\nhere")
"""


@pytest.fixture
def factories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """The name of a module of factories in the current folder, new for each test."""
    name = f"factories_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.mark.parametrize("form", ["{}:net", "{}.py:net", "./{}.py:net"])
@pytest.mark.slow("makes models of other libraries")
def test_factories(factories: str, form: str) -> None:
    spec = form.format(factories)
    expected = eqx.nn.MLP(2, 3, 4, 2, key=KEY)
    assert eqx.tree_equal(call_factory(spec, {"depth": 2}), expected)
    other = jax.random.PRNGKey(1)
    assert not eqx.tree_equal(call_factory(spec, {"depth": 2, "key": other}), expected)
    abstract = jtu.tree_leaves(call_factory(spec, abstract=True))
    assert any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in abstract)
    assert not any(isinstance(leaf, jax.Array) for leaf in abstract)
    target = open_any_target(spec)
    assert ".layers[0].weight" in target.skeleton


def test_an_object_is_its_own_factory(factories: str) -> None:
    assert isinstance(call_factory(f"{factories}:holder.made"), eqx.nn.Linear)


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("{}:broken", {}, InputError, "raised RuntimeError: no weights\\.$"),
    ("{}:net", {"width": 3}, InputError, "raised TypeError: .*width"),
    ("{}:missing", {}, UsageError, "has no 'missing'"),
    ("{}:holder.missing", {}, UsageError, r"has no 'holder\.missing'"),
    ("no_such_module:f", {}, UsageError, "no_such_module cannot be imported: ModuleNotFound"),
    ("no_such_file.py:f", {}, UsageError, r"no_such_file\.py does not exist"),
    ("no_colon", {}, UsageError, "nothing that can be imported"),
]


@pytest.mark.parametrize(("form", "kwargs", "kind", "message"), REFUSED)
def test_factories_that_do_not_work(
    factories: str, form: str, kwargs: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        call_factory(form.format(factories), kwargs)
    assert re.search(message, str(caught.value.args[0]))


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "raise ValueError('x')", "def f(:"])
def test_files_that_cannot_be_imported(factories: str, tmp_path: Path, code: str) -> None:
    (tmp_path / f"bad_{factories}.py").write_text(code)
    with pytest.raises(UsageError, match="cannot be imported"):
        call_factory(f"bad_{factories}.py:f")


def test_values_in_memory_are_the_pytrees_own() -> None:
    tree = {"w": jnp.ones((2, 3)), "none": None, "name": "x", "f": jnp.tanh}
    target = target_of(tree, "in memory")
    assert [leaf.path for leaf in target.skeleton] == ["['w']"]
    assert np.array_equal(target.values.read("['w']", ((1, 2), (0, 3))), np.ones((1, 3)))


def test_a_pytorch_module_is_no_skeleton(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Linear is a torch\.nn\.Module"):
        save_skeleton(tmp_path / "skeleton.eqx", torch.nn.Linear(2, 3))
    assert not any(tmp_path.iterdir())
