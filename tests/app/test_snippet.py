"""The code that loads a converted file, as the result shows it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest

from s2p_tui.app.screens.convert import library_of, snippet
from s2p_tui.formats.models import Models
from s2p_tui.formats.pytree.factory import model_and_factory
from s2p_tui.formats.pytree.skeleton import is_saved, save_skeleton, with_state_apart
from s2p_tui.formats.skeleton_file import open_target


@pytest.mark.parametrize(
    ("path", "leaves", "last"),
    [
        ("m.eqx", [".lin.weight"], 'model = eqx.tree_deserialise_leaves("m.eqx", like)'),
        (
            "m.eqx",
            ["[0].lin.weight", "[1].bn.batch_counter"],
            'model, state = eqx.tree_deserialise_leaves("m.eqx", like)',
        ),
        ("m.eqx", ["[0]", "[1]"], 'model = eqx.tree_deserialise_leaves("m.eqx", like)'),
        ("m.safetensors", [".a"], 'leaves = load_file("m.safetensors")'),
        ('a"b.eqx', [".a"], "model = eqx.tree_deserialise_leaves('a\"b.eqx', like)"),
    ],
)
def test_snippet(path: str, leaves: list[str], last: str) -> None:
    code = snippet(Path(path), leaves)
    compile(code, "snippet", "exec")
    assert code.splitlines()[-1] == last


def test_snippet_of_a_stateful_model_makes_one() -> None:
    code = snippet(Path("m.eqx"), ["[0].w", "[1].s"])
    assert "like = eqx.filter_eval_shape(eqx.nn.make_with_state(Model), ...)" in code


FACTORIES = """
import equinox as eqx
import jax
import numpy as np

def mlp(width, *, key):
    return eqx.nn.MLP(2, 3, width, 1, key=key)

def plain():
    return {"a": np.ones(3, np.float32), "b": 2.5}

def norm(size):
    return eqx.nn.BatchNorm(size, axis_name="batch", mode="ema")

class Made:
    pair = eqx.nn.make_with_state(norm)

def keyed(*, key):
    return mlp(2, key=key), jax.random.key(3)
"""


@pytest.mark.parametrize("dtype", [None, "orbax"])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("mlp", {"width": 4}),
        ("plain", {}),
        ("norm", {"size": 5}),
        ("Made.pair", {"size": 5}),
        ("keyed", {}),
    ],
)
@pytest.mark.slow("runs the code that is shown")
def test_snippet_makes_the_model_by_the_recorded_factory(
    name: str,
    kwargs: dict[str, int],
    dtype: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "recorded", raising=False)
    Path("recorded.py").write_text(FACTORIES)
    tree, factory = model_and_factory(f"recorded.py:{name}", kwargs)
    save_skeleton("s.eqx", tree, models=Models(factory))
    target = open_target("s.eqx")
    tree = with_state_apart(tree)
    file = tmp_path / ("m.orbax" if dtype else "m.eqx")
    eqx.tree_serialise_leaves(tmp_path / "m.eqx", eqx.filter(tree, is_saved))
    keys = bool(target.skeleton.keys)
    paths = [leaf.path for leaf in target.skeleton]
    code = snippet(file, paths, has_keys=keys, factory=target.models.jax)
    names: dict[str, Any] = {}
    if dtype:
        code = code.partition("arrays, static")[0]
        exec(code, names)
        assert jax.tree.structure(names["like"]) == jax.tree.structure(tree)
        return
    exec(code, names)
    found = (names["model"], names["state"]) if "state" in names else names["model"]
    assert eqx.tree_equal(eqx.filter(found, is_saved), eqx.filter(tree, is_saved))


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("m.eqx", 'nnx.update(model, eqx.tree_deserialise_leaves("m.eqx", state))'),
        (
            "m.safetensors",
            "nnx.update(model, nnx.map_state(lambda p, v: v.replace(leaves[name(p)]), state))",
        ),
        ("m.orbax", "nnx.update(model, state)"),
    ],
)
def test_snippet_of_a_model_of_nnx(path: str, last: str) -> None:
    library = library_of([None, "flax.nnx.Linear", "net.Block"])
    code = snippet(Path(path), [".lin.kernel"], "bfloat16", has_keys=True, library=library)
    compile(code, "snippet", "exec")
    assert code.splitlines()[-1] == last
    assert "  # with bfloat16 leaves, as in the file" in code


def test_snippet_of_variables_of_linen() -> None:
    code = snippet(Path("m.eqx"), ["['params']['w']"], library=library_of(["flax.linen.Dense"]))
    assert code.splitlines()[-1] == 'variables = eqx.tree_deserialise_leaves("m.eqx", like)'
    assert library_of(["equinox.nn.Linear", None]) == "equinox"
