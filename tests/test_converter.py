"""`convert` and `convert_tree`: objects and paths in, a right file or a clear refusal out."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import types
from itertools import chain
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import s2p_tui
from s2p_tui.converter import chunkify_pytree, chunkify_state_dict, convert, convert_tree
from s2p_tui.errors import (
    AlignmentError,
    AmbiguousStateDictError,
    CancelledError,
    InputError,
    OtherFilesError,
    OutputError,
    UsageError,
)
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.linears import EqxNet, TorchNet

ROOT = Path(__file__).parents[1]
OBJECTS = f"""
import sys
sys.path.append({str(ROOT)!r})
import jax, torch
from tests.models.linears import EqxNet, TorchNet
torch.manual_seed(0)
network = TorchNet()
weights = network.state_dict()
model = EqxNet(key=jax.random.PRNGKey(0))
class nested:
    weights = weights
def torch_side(): return TorchNet()
def jax_side(key): return EqxNet(key=key)
def signalled():
    import os, signal
    os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    print("went on", flush=True)
    return model
def broken(): raise ValueError("no weights here")
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and one for temporary files."""
    (tmp_path / "work").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def objects(inside: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (inside / "objects_of_test.py").write_text(OBJECTS)
    monkeypatch.delitem(sys.modules, "objects_of_test", raising=False)
    import importlib

    importlib.invalidate_caches()
    return importlib.import_module("objects_of_test")


def model() -> EqxNet:
    return EqxNet(key=jax.random.PRNGKey(0))


def forwards_agree(file: Path, network: torch.nn.Module) -> bool:
    loaded = eqx.tree_deserialise_leaves(file, EqxNet(key=jax.random.PRNGKey(9)))
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(4, 10)
    with torch.no_grad():
        expected = network(torch.tensor(x)).numpy()
    return bool(np.allclose(np.asarray(jax.vmap(loaded)(x)), expected, atol=1e-6))


# --- the quickstart's two examples ---

FIRST = {"lin2": torch.randn(20, 20), "lin1": torch.randn(10, 20)}
FIRST_TREE = {"lin1": jnp.zeros((10, 20)), "lin2": jnp.zeros((20, 20))}


def test_an_order_that_differs_fails_strictly_and_is_right_by_default(inside: Path) -> None:
    with pytest.raises(AlignmentError) as caught:
        convert(from_memory=True, state_dict=FIRST, pytree=FIRST_TREE, arrange="order")
    assert {path for path, _ in caught.value.problems} == {"['lin1']", "['lin2']"}
    assert not list(inside.iterdir())
    report = convert(from_memory=True, state_dict=FIRST, pytree=FIRST_TREE)
    loaded = eqx.tree_deserialise_leaves("model.eqx", FIRST_TREE)
    assert all(np.array_equal(loaded[key], FIRST[key].numpy()) for key in FIRST)
    assert (str(report.path), report.verified, report.warnings) == ("model.eqx", True, ())


class Three(eqx.Module):
    lin1: eqx.nn.Linear
    lin2: eqx.nn.Linear
    lin3: eqx.nn.Linear

    def __init__(self) -> None:
        layer = eqx.nn.Linear(10, 10, use_bias=False, key=jax.random.PRNGKey(0))
        self.lin1 = self.lin2 = self.lin3 = layer


def three_arrays() -> dict[str, jax.Array]:
    return {f"lin{n}": jnp.zeros((10, 10)) for n in (1, 2, 3)}


@pytest.mark.parametrize(("make", "end"), [(Three, ".weight"), (three_arrays, "")])
def test_equal_shapes_in_reverse_are_right_by_name_and_refused_by_order(
    inside: Path, make: Any, end: str
) -> None:
    state = {f"lin{n}{end}": torch.full((10, 10), float(n)) for n in (3, 2, 1)}
    convert(from_memory=True, state_dict=state, pytree=make())
    loaded = eqx.tree_deserialise_leaves("model.eqx", make())
    assert [float(leaf[0, 0]) for leaf in jax.tree_util.tree_leaves(loaded)] == [1, 2, 3]
    with pytest.raises(AlignmentError, match="2 of 3 rows do not line up") as caught:
        convert(from_memory=True, state_dict=state, pytree=make(), arrange="order",
                target_name="other.eqx")  # fmt: skip
    assert f": lin3{end}: " in str(caught.value)
    assert f": lin2{end}: " not in str(caught.value)
    assert not (inside / "other.eqx").exists()


def test_equal_shapes_whose_names_say_nothing_are_doubtful_until_trusted(inside: Path) -> None:
    state = {name: torch.full((10, 10), float(n)) for n, name in enumerate(("qux", "foo", "bar"))}
    tree = {"a": jnp.zeros((10, 10)), "b": jnp.zeros((10, 10)), "c": jnp.zeros((10, 10))}
    for arrange in ("auto", "order"):
        with pytest.raises(AlignmentError, match="3 of 3 rows") as caught:
            convert(from_memory=True, state_dict=state, pytree=tree, arrange=arrange)
        message = str(caught.value)
        assert all(f"\n  ['{name}']: " in message for name in "abc")
        assert all(way in message for way in ("trust=", "mapping=", 'arrange="order"', "app"))
        assert "--" not in message
    with pytest.raises(AlignmentError, match="2 of 3 rows"):
        convert(from_memory=True, state_dict=state, pytree=tree, trust="['a']")
    assert not list(inside.iterdir())
    found = convert(from_memory=True, state_dict=state, pytree=tree, trust=True, arrange="order")
    loaded = eqx.tree_deserialise_leaves(found.path, tree)
    assert [float(loaded[key][0, 0]) for key in "abc"] == [0, 1, 2]


# --- what is read, and from where ---


def test_the_file_is_what_equinox_writes_for_the_filled_tree(inside: Path) -> None:
    network = TorchNet()
    report = convert(from_memory=True, state_dict=network.state_dict(), pytree=model())
    assert forwards_agree(report.path, network)
    tree = convert_tree(network.state_dict(), model())
    eqx.tree_serialise_leaves(inside / "by_equinox.eqx", tree)
    assert (inside / "by_equinox.eqx").read_bytes() == Path(report).read_bytes()


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self) -> None:
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
        self.linear = eqx.nn.Linear(3, 3, key=jax.random.PRNGKey(0))


@pytest.mark.parametrize("form", ["inside", "apart", "abstract"])
@pytest.mark.slow("converts many times")
def test_state_inside_is_taken_as_model_and_state(form: str) -> None:
    network = torch.nn.ModuleDict(
        {"norm": torch.nn.BatchNorm1d(3), "linear": torch.nn.Linear(3, 3)}
    )
    network["norm"].running_mean += 5
    given = {
        "inside": Stateful,
        "apart": lambda: eqx.nn.make_with_state(Stateful)(),
        "abstract": lambda: eqx.filter_eval_shape(Stateful),
    }[form]()
    report = convert(from_memory=True, state_dict=network.state_dict(), pytree=given)
    filled, state = eqx.tree_deserialise_leaves(report.path, eqx.nn.make_with_state(Stateful)())
    other, other_state = convert_tree(network.state_dict(), given)
    assert np.array_equal(filled.linear.weight, network["linear"].weight.detach().numpy())
    for one in (state, other_state):
        assert np.allclose(one.get(filled.norm.batch_state_index)[0], 5)
    assert eqx.tree_equal(filled, other)


def tied() -> dict[str, torch.Tensor]:
    shared = torch.randn(4, 3)
    return {
        "embed.weight": shared, "head.weight": shared, "turned.weight": torch.randn(3, 5).t(),
        "scale": torch.tensor(2.5), "none": torch.zeros(0, 3), "mask": torch.tensor([True, False]),
        "wave": torch.randn(3, dtype=torch.complex64), "half": torch.randn(4).to(torch.bfloat16),
        "step": torch.arange(10.0)[::3], "count": torch.tensor([1, 2]).to(torch.int32),
    }  # fmt: skip


def nested(state: dict[str, torch.Tensor], make: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, tensor in state.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = make(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    return tree


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.float32).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("make", [jnp.zeros, jax.ShapeDtypeStruct, np.zeros])
def test_every_kind_of_tensor_arrives_in_any_kind_of_leaf(make: Any) -> None:
    if make is np.zeros:
        make = lambda shape, dtype: np.zeros(shape, jnp.dtype(dtype))  # noqa: E731
    state = tied()
    tree = nested(state, make)
    filled = convert_tree(state, tree)
    report = convert(from_memory=True, state_dict=state, pytree=tree)
    loaded = eqx.tree_deserialise_leaves(report.path, nested(state, jnp.zeros))
    for key, tensor in state.items():
        for found in (filled, loaded):
            leaf: Any = found
            for part in key.split("."):
                leaf = leaf[part]
            assert leaf.shape == tuple(tensor.shape)
            assert str(leaf.dtype) == str(tensor.dtype).removeprefix("torch.")
            assert np.array_equal(np.asarray(leaf).astype(numbers(tensor).dtype), numbers(tensor))


def test_fp8_goes_into_trees_and_is_refused_for_files_equinox_cannot_load() -> None:
    state = {"w": torch.arange(4.0).to(torch.float8_e4m3fn)}
    tree = {"w": jnp.zeros(4, jnp.float8_e4m3fn)}
    assert convert_tree(state, tree)["w"].tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="cannot load them"):
        convert(from_memory=True, state_dict=state, pytree=tree)
    widened = {"w": jnp.zeros(4)}
    found = eqx.tree_deserialise_leaves(
        convert(from_memory=True, state_dict=state, pytree=widened).path, widened
    )
    assert found["w"].tolist() == [0, 1, 2, 3]


def test_quantised_and_meta_tensors_are_refused_together(inside: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    state = {"q": quantised, "m": torch.zeros(2, device="meta"), "fine": torch.ones(2)}
    for call in (
        lambda: convert(from_memory=True, state_dict=state, pytree={"fine": jnp.ones(2)}),
        lambda: convert_tree(state, {"fine": jnp.ones(2)}),
        lambda: chunkify_state_dict(state, "chunks"),
    ):
        with pytest.raises(InputError, match=r"q is quantised; .*; m is on the meta device"):
            call()
    assert not list(inside.iterdir())


def test_a_dataclass_is_filled_and_an_unregistered_one_gets_a_way_out() -> None:
    @dataclasses.dataclass
    class Params:
        weight: Any
        name: str = "mine"

    with pytest.raises(UsageError, match=r"has no leaves .*register_dataclass"):
        convert_tree({"weight": torch.ones(2)}, Params(jnp.zeros(2)))
    jax.tree_util.register_dataclass(Params, ["weight"], ["name"])
    filled = convert_tree({"weight": torch.ones(2)}, Params(jnp.zeros(2)))
    assert (filled.name, filled.weight.tolist()) == ("mine", [1, 1])


def test_trees_of_a_users_own_container_are_filled() -> None:
    """As `flax.nnx.State` is one: a registered container, variables of its own in it."""

    class Variable:
        def __init__(self, value: Any) -> None:
            self.value = value

    class State(dict):
        pass

    jax.tree_util.register_pytree_with_keys(
        Variable,
        lambda v: (((jax.tree_util.GetAttrKey("value"), v.value),), None),
        lambda _, children: Variable(*children),
    )
    jax.tree_util.register_pytree_with_keys(
        State,
        lambda s: ([(jax.tree_util.DictKey(key), s[key]) for key in sorted(s)], sorted(s)),
        lambda keys, children: State(zip(keys, children, strict=True)),
    )
    tree = State(linear=State(bias=Variable(jnp.zeros(3)), kernel=Variable(jnp.zeros((3, 2)))))
    state = {"linear.weight": torch.randn(3, 2), "linear.bias": torch.randn(3)}
    filled = convert_tree(state, tree, trust=True)
    assert isinstance(filled, State)
    assert np.array_equal(filled["linear"]["kernel"].value, state["linear.weight"].numpy())
    assert np.array_equal(filled["linear"]["bias"].value, state["linear.bias"].numpy())


def test_gaps_and_scalars_keep_what_the_tree_has() -> None:
    tree = {"p": 0.5, "w": jnp.zeros(2), "static": "text"}
    with pytest.warns(UserWarning, match=r"keep the pytree's values: \['p'\]\."):
        filled = convert_tree({"w": torch.ones(2)}, tree)
    assert (filled["p"], filled["static"]) == (0.5, "text")
    assert type(filled["p"]) is float


def test_a_scalar_takes_the_one_element_of_its_own_name() -> None:
    tree = {"fc": jnp.zeros((2, 3)), "logit_scale": 2.66, "depth": 3, "p": 0.5}
    state = {"fc": torch.ones(2, 3), "logit_scale": torch.tensor(4.5), "depth": torch.tensor([7])}
    for prefix in ("", "module."):
        renamed = {prefix + key: tensor for key, tensor in state.items()}
        with pytest.warns(UserWarning, match=r"keep the pytree's values: \['p'\]\."):
            filled = convert_tree(renamed, tree)
        assert (filled["logit_scale"], filled["depth"], filled["p"]) == (4.5, 7, 0.5)
        assert (type(filled["logit_scale"]), type(filled["depth"])) == (float, int)
    report = convert(from_memory=True, state_dict=state, pytree=tree)
    assert report.warnings == ("1 Python scalar keeps the skeleton's value: ['p']",)
    loaded = eqx.tree_deserialise_leaves(report.path, tree)
    assert (loaded["logit_scale"], loaded["depth"], loaded["p"]) == (4.5, 7, 0.5)


def test_scalars_of_one_name_take_the_entries_of_their_own_paths() -> None:
    tree = {"a": {"scale": 1.0, "w": jnp.zeros(2)}, "b": {"scale": 1.0, "w": jnp.zeros(3)}}
    state = {"a.scale": torch.tensor(2.0), "b.scale": torch.tensor(3.0)}
    state |= {"a.w": torch.ones(2), "b.w": torch.ones(3)}
    for prefix in ("", "module."):
        filled = convert_tree({prefix + key: value for key, value in state.items()}, tree)
        assert (filled["a"]["scale"], filled["b"]["scale"]) == (2.0, 3.0)


def test_a_scalar_that_several_entries_could_fill_is_refused() -> None:
    tree = {"fc": jnp.zeros((2, 3)), "scale": 1.0}
    state = {"fc": torch.ones(2, 3), "a.scale": torch.tensor(2.0), "b.scale": torch.tensor(3.0)}
    with pytest.raises(AlignmentError, match=r"a\.scale"):
        convert_tree(state, tree)


def test_casts_that_lose_numbers_are_refused_or_warned_of() -> None:
    state, tree = {"w": torch.tensor([1.0, 1e9])}, {"w": jnp.zeros(2, jnp.float16)}
    with pytest.raises(OutputError, match=r"\['w'\]: 1 number became infinite"):
        convert_tree(state, tree)
    with pytest.warns(UserWarning, match=r"\['w'\]: 1 number became infinite"):
        convert_tree(state, tree, allow_overflow=True)
    with pytest.warns(UserWarning, match=r"\['w'\]: 1 number became zero"):
        convert_tree({"w": torch.tensor([1.0, 1e-9])}, tree)
    with pytest.raises(OutputError, match="allow_overflow=True"):
        convert(from_memory=True, state_dict=state, pytree=tree)
    report = convert(from_memory=True, state_dict=state, pytree=tree, allow_overflow=True)
    assert report.warnings == ("['w']: 1 number became infinite",)
    wide = convert_tree(state, {"w": jnp.zeros(2)}, dtype="bfloat16")
    assert str(wide["w"].dtype) == "bfloat16"


def test_a_tree_can_be_filled_from_a_file() -> None:
    network = TorchNet()
    torch.save({"model": network.state_dict()}, "m.pt")
    filled = convert_tree("m.pt", model(), key="model")
    assert np.array_equal(filled.lin1.weight, network.lin1.weight.detach().numpy())


# --- by paths ---


def test_chunks_made_earlier_are_converted() -> None:
    network = TorchNet()
    chunkify_state_dict(network.state_dict(), "torch_chunks")
    chunkify_pytree(model(), "jax_chunks")
    report = convert(
        from_path=True,
        path_to_state_dict_chunks="torch_chunks",
        path_to_pytree_chunks="jax_chunks",
    )
    assert forwards_agree(report.path, network)


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize("chunkify", [False, True])
def test_chunks_hold_the_numbers_and_objects_name_them(objects: Any, chunkify: bool) -> None:
    other = TorchNet()
    chunkify_state_dict(other.state_dict(), "torch_chunks")
    chunkify_pytree(model(), "jax_chunks")
    report = convert(
        from_path=True,
        chunkify=chunkify,
        path_to_state_dict_object="objects_of_test.weights",
        path_to_state_dict_chunks="torch_chunks",
        path_to_pytree_object="objects_of_test:jax_side",
        path_to_pytree_chunks="jax_chunks",
    )
    assert forwards_agree(report.path, other)
    assert not forwards_agree(report.path, objects.network)


@pytest.mark.usefixtures("objects")
def test_objects_that_are_not_those_of_the_chunks_are_refused() -> None:
    chunkify_state_dict({"a.weight": torch.ones(3, 4)}, "torch_chunks")
    chunkify_pytree({"a": {"weight": jnp.ones((3, 4))}}, "jax_chunks")
    both = {"path_to_state_dict_chunks": "torch_chunks", "path_to_pytree_chunks": "jax_chunks"}
    weights = {"path_to_state_dict_object": "objects_of_test.weights"}
    with pytest.raises(InputError, match=r"the first is a\.weight: float32 3×4 and none\."):
        convert(from_path=True, **weights, **both)
    factory = Path("namesake.py")
    factory.write_text("import jax.numpy as jnp\nother = {'b': {'weight': jnp.ones((3, 4))}}\n")
    with pytest.raises(InputError, match="leaf 0 is the first that differs in name, shape or dtyp"):
        convert(from_path=True, path_to_pytree_object="namesake.py:other", **both)
    save_skeleton("skeleton.eqx", {"a": {"weight": jnp.ones((3, 4))}})
    with pytest.raises(UsageError, match=r"skeleton\.eqx' is a file, which holds its own leaves"):
        convert(from_path=True, path_to_pytree_object="skeleton.eqx", **both)
    with pytest.raises(UsageError, match="both name the leaves of the chunks"):
        convert(from_path=True, path_to_pytree_object="namesake:other", like="other", **both)


@pytest.mark.parametrize(
    ("torch_side", "jax_side"),
    [
        ("objects_of_test.weights", "objects_of_test.model"),
        ("objects_of_test:network", "objects_of_test:jax_side"),
        ("objects_of_test.nested.weights", "objects_of_test.jax_side"),
        ("objects_of_test.py:weights", "objects_of_test.py:model"),
        ("model.pt", "skeleton.eqx"),
        ("objects_of_test.weights", "skeleton.eqx"),
        ("model.pt", "objects_of_test:model"),
    ],
)
@pytest.mark.parametrize("chunkify", [False, True])
@pytest.mark.slow("makes and converts both models anew each time")
def test_objects_and_files_are_converted_and_leave_nothing_behind(
    inside: Path, objects: Any, torch_side: str, jax_side: str, chunkify: bool
) -> None:
    torch.save(objects.weights, "model.pt")
    save_skeleton("skeleton.eqx", objects.model)
    report = convert(
        from_path=True,
        path_to_state_dict_object=torch_side,
        path_to_pytree_object=jax_side,
        chunkify=chunkify,
    )
    assert forwards_agree(report.path, objects.network)
    assert not list((inside.parent / "temporary").iterdir())


@pytest.mark.usefixtures("objects")
@pytest.mark.slow("converts by paths again and again")
def test_functions_are_called_and_their_errors_told(inside: Path) -> None:
    paths = {"path_to_pytree_object": "objects_of_test:jax_side", "chunkify": True}
    convert(from_path=True, path_to_state_dict_object="objects_of_test:torch_side", **paths)
    with pytest.raises(InputError, match="broken raised ValueError: no weights here"):
        convert(from_path=True, path_to_state_dict_object="objects_of_test:broken", **paths)
    with pytest.raises(UsageError, match="objects_of_test has no 'nothing'"):
        convert(from_path=True, path_to_state_dict_object="objects_of_test.nothing", **paths)
    with pytest.raises(InputError, match=r"gone\.pt does not exist"):
        convert(from_path=True, path_to_state_dict_object="gone.pt", **paths)
    assert not list((inside.parent / "temporary").iterdir())


@pytest.mark.usefixtures("objects")
def test_an_error_after_chunking_leaves_no_temporary_folder(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def failing(*_: Any, **__: Any) -> None:
        seen.append(len(list((inside.parent / "temporary").iterdir())))
        raise MemoryError

    monkeypatch.setattr(Session, "convert", failing)
    with pytest.raises(MemoryError):
        convert(from_path=True, path_to_state_dict_object="objects_of_test.weights",
                path_to_pytree_object="objects_of_test.model", chunkify=True)  # fmt: skip
    assert seen == [1]
    assert not list((inside.parent / "temporary").iterdir())


SIGNALLED = """
import os, signal, sys, tempfile
sys.path.insert(0, os.getcwd())
import equinox, jax, torch
from s2p_tui.converter import convert
from s2p_tui.formats import atomic
from s2p_tui.session.session import Session
number = 0
for name, moment in zip(sys.argv[1::2], sys.argv[2::2]):
    # A child for each: what takes seconds to import is there already.
    if not os.fork():
        number, os.environ["SIGNAL"] = getattr(signal, name), name
        break
    print("ended by", -os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    print("left", os.listdir(tempfile.gettempdir()), flush=True)
if not number:
    sys.exit()
before = Session.convert
def convert_and_signal(self, *args, job, **kwargs):
    assert len(os.listdir(tempfile.gettempdir())) == 1
    print("chunked", flush=True)
    if moment == "between":
        os.kill(os.getpid(), number)
    return before(self, *args, job=job, **kwargs)
Session.convert = convert_and_signal
if moment == "writing":
    sync = atomic.AtomicFile.sync
    def signal_then_sync(self):
        assert self.temporary.exists()
        os.kill(os.getpid(), number)
        sync(self)
    atomic.AtomicFile.sync = signal_then_sync
made = "signalled" if moment == "making" else "model"
try:
    convert(from_path=True, path_to_state_dict_object="objects_of_test.weights",
            path_to_pytree_object="objects_of_test:" + made, chunkify=True)
except Exception as error:
    print("swallowed", error)
print("went on")
os._exit(0)
"""
MOMENTS = ("making", "between", "writing")


@pytest.mark.usefixtures("objects")
@pytest.mark.slow("starts a program that imports torch and JAX")
def test_signals_clean_up_before_they_end_the_program(inside: Path) -> None:
    cases = [(name, moment) for name in ("SIGTERM", "SIGHUP", "SIGINT") for moment in MOMENTS]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *chain(*cases)],
        env={**os.environ, "TMPDIR": str(inside.parent / "temporary")},
        capture_output=True,
        text=True,
    )
    expected = [
        "chunked\n" * (moment != "making") + f"ended by {getattr(signal, name)}\nleft []\n"
        for name, moment in cases
    ]
    assert done.stdout == "".join(expected), done.stderr
    assert done.returncode == 0
    assert not list((inside.parent / "temporary").iterdir())
    assert sorted(p.name for p in inside.iterdir() if p.suffix != ".py") in ([], ["__pycache__"])


def test_handlers_of_the_callers_own_are_left_alone_and_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    mine: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: mine.append(number))
    try:
        convert(from_memory=True, state_dict=FIRST, pytree=FIRST_TREE)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert mine == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]


def test_it_works_in_a_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(convert(from_memory=True, state_dict=FIRST, pytree=FIRST_TREE))
    )
    thread.start()
    thread.join()
    assert found[0].verified


# --- arguments ---

BOTH = {"state_dict": FIRST, "pytree": FIRST_TREE}


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({}, ["Give from_memory=True or from_path=True"]),
        ({"from_memory": True, "from_path": True}, ["not both"]),
        ({"from_memory": True}, ["state_dict is missing", "pytree is missing"]),
        ({"from_memory": True, "state_dict": FIRST}, ["pytree is missing"]),
        ({"from_memory": True, "chunkify": True, "path_to_pytree_chunks": "c", **BOTH},
         ["chunkify does not go with it", "path_to_pytree_chunks does not go with it"]),
        ({"from_path": True},
         ["path_to_state_dict_chunks or path_to_state_dict_object is missing",
          "path_to_pytree_chunks or path_to_pytree_object is missing"]),
        ({"from_path": True, **BOTH}, ["state_dict does not go", "pytree does not go"]),
        ({"from_path": True, "path_to_pytree_chunks": "c", "path_to_pytree_object": "o"},
         ["path_to_state_dict_chunks or path_to_state_dict_object is missing"]),
        ({"from_path": True, "chunkify": True, "path_to_pytree_chunks": "c",
          "path_to_state_dict_chunks": "c"}, ["chunkify=True has no object to chunk"]),
        ({"from_memory": True, **BOTH, "arrange": "order", "mapping": "m.json"},
         ["mapping= and arrange= both say"]),
        ({"from_memory": True, **BOTH, "arrange_with_anthropic": True, "mapping": "m.json"},
         ["arrange_with_anthropic= and mapping= both say"]),
        ({"from_memory": True, **BOTH, "recipe": "bert", "mapping": "m.json", "arrange": "auto"},
         ["mapping=, recipe= and arrange= all say"]),
        ({"from_memory": True, **BOTH, "recipe": "bert", "arrange_with_anthropic": True},
         ["arrange_with_anthropic= and recipe= both say"]),
        ({"from_memory": True, **BOTH, "arrange": "alphabet"}, ["arrange='alphabet' is not known"]),
        ({"from_memory": True, **BOTH, "certificate": "a.json", "report": "b.json"},
         ["certificate= and report= both name", "report= is its old name"]),
        ({"from_memory": True, **BOTH, "like": "a:b"}, ["names its own leaves", "Leave like= out"]),
        ({"from_memory": True, **BOTH, "dtype": "int8"}, ["int8 is not a floating-point dtype"]),
        ({"from_memory": True, **BOTH, "trust": ["['x']"]}, ["not doubtful: ['x']"]),
    ],
)  # fmt: skip
def test_wrong_combinations_say_all_that_is_wrong_and_what_the_mode_needs(
    inside: Path, arguments: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        convert(**arguments)
    assert all(problem in str(caught.value) for problem in problems), str(caught.value)
    missing = "is missing" in str(caught.value)
    if missing:
        assert "=True needs " in str(caught.value)
    assert not list(inside.iterdir())


def test_the_certificate_goes_by_its_old_name_too(inside: Path) -> None:
    convert(from_memory=True, **BOTH, certificate="new.json")
    convert(from_memory=True, **BOTH, report="old.json")
    assert (inside / "new.json").read_bytes() == (inside / "old.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, "sonnet3.5"),
        ({"anthropic_model": "opus"}, "opus"),
        ({"claude_model": "haiku"}, "haiku"),
        ({"claude_model": "haiku", "anthropic_model": "opus"}, "haiku"),
    ],
)
@pytest.mark.usefixtures("inside")
def test_claudes_model_goes_by_its_old_name_too(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str], asked: str
) -> None:
    from s2p_tui.session import ask_claude

    models: list[str] = []

    def asks(*_: Session, model: str, **__: object) -> bool:
        models.append(model)
        return True

    monkeypatch.setattr(ask_claude, "propose_with_claude", asks)
    convert(from_memory=True, **BOTH, arrange_with_anthropic=True, **arguments)
    assert models == [asked]


def test_several_state_dicts_are_told_apart_by_key() -> None:
    both = {"model": FIRST, "ema": {key: tensor + 1 for key, tensor in FIRST.items()}}
    with pytest.raises(AmbiguousStateDictError, match="key=; there are 'model', 'ema'") as caught:
        convert(from_memory=True, state_dict=both, pytree=FIRST_TREE)
    assert "--key" not in str(caught.value)
    convert(from_memory=True, state_dict=both, pytree=FIRST_TREE, key="ema")
    loaded = eqx.tree_deserialise_leaves("model.eqx", FIRST_TREE)
    assert np.array_equal(loaded["lin1"], (FIRST["lin1"] + 1).numpy())


def test_files_beside_the_output(inside: Path) -> None:
    report = convert(
        from_memory=True, **BOTH, target_name="out", target_dir=inside, verify=True,
        save_mapping="m.json", report="certificate.json",
    )  # fmt: skip
    assert report.path == inside / "out.eqx"
    assert (report.mapping, report.certificate) == (Path("m.json"), Path("certificate.json"))
    assert json.loads(Path("certificate.json").read_text())["verified"] is True
    again = convert(from_memory=True, **BOTH, mapping="m.json", target_name="o.safetensors")
    assert again.path.name == "o.safetensors"
    mapping = s2p_tui.load_mapping("m.json")
    assert convert(from_memory=True, **BOTH, mapping=mapping).rows["exact"] == 2
    with pytest.raises(OutputError, match="would overwrite a file"):
        convert(from_memory=True, **BOTH, mapping="m.json", target_name="m.json")
    with pytest.raises(OutputError, match="its folder does not exist"):
        convert(from_memory=True, **BOTH, target_dir="nowhere")
    with pytest.raises(OtherFilesError, match="made for other files"):
        convert(from_memory=True, state_dict=FIRST, pytree={"x": jnp.ones(3)}, mapping="m.json")


def test_models_that_cannot_belong_together_are_refused() -> None:
    with pytest.raises(OtherFilesError, match="describes another model"):
        convert(from_memory=True, state_dict=FIRST, pytree={"x": jnp.ones(3)})


def test_the_report_tells_what_was_left_over() -> None:
    state = {**FIRST, "extra": torch.ones(3)}
    asked = {"from_memory": True, "state_dict": state, "pytree": FIRST_TREE, "verify": False}
    with pytest.raises(AlignmentError, match=r'(?s)extra: no leaf.*allow_unused=\["extra"\]'):
        convert(**asked)
    report = convert(**asked, allow_unused="ext*")
    assert report.unused == ("extra",)
    assert report.warnings == ("unused entries: 1 (accepted as unused: extra)",)
    assert report.rows == {"exact": 2, "transformed": 0, "doubtful": 0, "mismatched": 0, "gap": 0}
    assert (report.verified, report.bytes) == (False, Path("model.eqx").stat().st_size)
    assert "not verified" in str(report)
    with open(report, "rb") as stream:
        assert stream.read(1)


# --- Claude ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Session, str, Any]]:
    """What Claude's asking was called with; it does as `confirm` says."""
    calls: list[tuple[Session, str, Any]] = []

    def propose_with_claude(session: Session, *, model: str, confirm: Any) -> bool:
        calls.append((session, model, confirm))
        return confirm("the proposal")

    monkeypatch.setattr("s2p_tui.session.ask_claude.propose_with_claude", propose_with_claude)
    return calls


@pytest.mark.parametrize("name", ["haiku", "opus", "sonnet", "sonnet3.5", "claude-some-model"])
def test_claude_is_asked_and_followed(inside: Path, asked: list[Any], name: str) -> None:
    convert(from_memory=True, **BOTH, arrange_with_anthropic=True, anthropic_model=name,
            confirm=lambda _: True)  # fmt: skip
    assert [model for _, model, _ in asked] == [name]
    assert (inside / "model.eqx").exists()


def test_a_declined_proposal_writes_nothing(inside: Path, asked: list[Any]) -> None:
    with pytest.raises(CancelledError, match="declined; nothing was written"):
        convert(from_memory=True, **BOTH, arrange_with_anthropic=True, confirm=lambda _: False)
    assert [model for _, model, _ in asked] == ["sonnet3.5"]
    assert not list(inside.iterdir())


def test_claude_is_not_asked_unless_wanted(asked: list[Any]) -> None:
    convert(from_memory=True, **BOTH)
    assert asked == []


def test_the_public_names_are_these() -> None:
    for name in ("convert", "convert_tree", "chunkify_state_dict", "chunkify_pytree"):
        assert callable(getattr(s2p_tui, name))
        assert getattr(s2p_tui.converter, name) is getattr(s2p_tui, name)
