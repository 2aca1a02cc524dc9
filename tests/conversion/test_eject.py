"""Ejected loaders give what a conversion gives, bit for bit, without this program."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.cli import run
from s2p_tui.conversion.output import mapping_of
from s2p_tui.formats.pytree.factory import call_factory
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.loader import save_loader
from s2p_tui.session.session import Session
from tests.models.twin import Twin
from tests.models.twins import TWINS

ALLOWED = {"collections.abc", "equinox", "jax", "jax.numpy", "json", "numpy", "pathlib", "torch"}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def bits(tree: Any) -> list[tuple[type, str, bytes]]:
    leaves = jax.tree_util.tree_leaves(tree)
    return [
        (type(leaf), str(np.asarray(leaf).dtype), np.asarray(leaf).tobytes())
        for leaf in leaves
        if eqx.is_array_like(leaf)
    ]


@pytest.mark.parametrize(
    "twin", [twin for twin in TWINS if twin.truth is not None], ids=lambda twin: twin.name
)
@pytest.mark.slow("converts every twin twice")
def test_the_loader_of_every_twin_loads_what_is_converted(twin: Twin, tmp_path: Path) -> None:
    assert twin.truth is not None
    torch.save(twin.checkpoint(twin.make_torch()), tmp_path / "model.pt")
    with twin.precision():
        save_skeleton(tmp_path / "skeleton.eqx", tree := twin.eqx_skeleton(twin.truth))
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    truth = [twin.truth[leaf.path] for leaf in session.target.skeleton]
    rows = [Row(one, gap=one is None, by="user", trusted=True) for one in truth]
    session.edit(SetRows(tuple(enumerate(rows))))
    session.allow_unused(None)
    session.convert(tmp_path / "out.eqx")
    mapping = mapping_of(session.checkpoint, session.target, session.alignment)
    loader = tmp_path / "load_model.py"
    save_loader(mapping, session.target, loader)
    assert imported(loader) <= ALLOWED
    load = runpy.run_path(str(loader))["load"]
    with twin.precision():
        wanted = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", tree)
        key = session.checkpoint.key or None
        found = load(tmp_path / "model.pt", tree, key=key)
    assert jax.tree_util.tree_structure(found) == jax.tree_util.tree_structure(wanted)
    assert bits(found) == bits(wanted)


NET = """
import equinox as eqx
import jax


class Net(eqx.Module):
    table: eqx.nn.Embedding
    up: eqx.nn.ConvTranspose2d
    head: eqx.nn.Linear
    rate: float = 0.5

    def __init__(self, *, key):
        keys = jax.random.split(key, 3)
        self.table = eqx.nn.Embedding(5, 4, key=keys[0])
        self.up = eqx.nn.ConvTranspose2d(3, 8, 2, key=keys[1])
        self.head = eqx.nn.Linear(4, 7, key=keys[2])
        self.rate = 0.5
"""
ALONE = """
import sys
sys.modules["s2p_tui"] = None
sys.path.insert(0, ".")
import equinox as eqx, jax, numpy as np
from net import Net
from load_model import load
like = eqx.filter_eval_shape(Net, key=jax.random.PRNGKey(0))
wanted = eqx.tree_deserialise_leaves("out.eqx", like)
for checkpoint in sys.argv[1:]:
    found = load(checkpoint, like)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert type(a) is type(b)
print("the same")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of user's own, its checkpoint in several formats, its mapping and its loader."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    rng = torch.Generator().manual_seed(0)
    state = {
        "table.weight": torch.randn(5, 4, generator=rng).bfloat16(),
        "up.weight": torch.randn(3, 8, 2, 2, generator=rng),
        "up.bias": torch.randn(8, generator=rng),
        "head.weight": torch.randn(7, 4, generator=rng),
        "head.bias": torch.randn(7, generator=rng),
        "steps.num_batches_tracked": torch.tensor(3),
    }
    torch.save(state, "model.pt")
    torch.save({"model": state, "epoch": 3}, "nested.pt")
    torch.save({"model": state, "ema": state}, "two.pt")
    save_file(state, "model.safetensors")
    assert run(["skeleton", "net.py:Net", "--no-values", "-o", "skeleton.eqx"]) == 0
    convert = ["convert", "model.pt", "skeleton.eqx", "-o", "out.eqx"]
    assert run([*convert, "--save-mapping", "m.json"]) == 0
    assert run(["eject", "m.json", "--skeleton", "skeleton.eqx", "-o", "load_model.py"]) == 0
    return tmp_path


@pytest.mark.slow("starts a Python that imports JAX and torch")
@pytest.mark.usefixtures("folder")
def test_it_runs_where_this_program_is_not() -> None:
    files = ["model.pt", "nested.pt", "model.safetensors"]
    run_alone = [sys.executable, "-c", ALONE, *files]
    done = subprocess.run(run_alone, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


def loaded(checkpoint: Any, **more: Any) -> Any:
    like = call_factory("net.py:Net", abstract=True)
    return runpy.run_path("load_model.py")["load"](checkpoint, like, **more)


@pytest.mark.usefixtures("folder")
def test_it_refuses_what_it_was_not_made_for() -> None:
    state = torch.load("model.pt")
    assert bits(loaded(state)) == bits(loaded("two.pt", key="ema"))
    with pytest.raises(ValueError, match="2 state dicts hold every entry"):
        loaded("two.pt")
    with pytest.raises(ValueError, match=r"no leaf takes: \['head.scale'\]"):
        loaded(state | {"head.scale": torch.ones(7)})
    with pytest.raises(ValueError, match=r"missing entries: \['up.bias'\]"):
        loaded({key: value for key, value in state.items() if key != "up.bias"})
    with pytest.raises(ValueError, match=r"head.weight has shape \(4, 7\), expected \(7, 4\)"):
        loaded(state | {"head.weight": torch.ones(4, 7)})
    with pytest.raises(ValueError, match="do not fit"):
        loaded(state | {"head.bias": torch.full((7,), 1e300, dtype=torch.float64)})
    load = runpy.run_path("load_model.py")["load"]
    with pytest.raises(ValueError, match="like has 1 leaves, expected 6"):
        load(state, {"w": np.ones(3)})


@pytest.mark.usefixtures("folder")
def test_an_unused_entry_has_to_be_a_copy_or_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load("model.pt")
    torch.save(state | {"tied.weight": state["head.weight"], "more": torch.ones(2)}, "more.pt")
    convert = ["convert", "more.pt", "skeleton.eqx", "-o", "more.eqx", "--save-mapping", "n.json"]
    assert run([*convert, "--allow-unused", "more"]) == 0
    eject = ["eject", "n.json", "--skeleton", "skeleton.eqx", "-o", "load_model.py"]
    assert run(eject) == 0
    assert Path("load_model.py~").exists()
    assert bits(loaded("more.pt")) == bits(loaded("more.pt"))
    with pytest.raises(ValueError, match=r"tied.weight is not used, and no copy"):
        loaded(state | {"tied.weight": torch.ones(7, 4), "more": torch.ones(2)})
    Path("n.json").write_text(
        Path("n.json").read_text().replace('"accepted": ["more"]', '"accepted": []')
    )
    capsys.readouterr()
    assert run(eject) == 3
    assert "more: no leaf takes it" in capsys.readouterr().err
    assert run([*eject, "--allow-unused", "more"]) == 0


@pytest.mark.usefixtures("folder")
def test_rows_that_block_are_not_ejected(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("m.json").read_text()
    Path("n.json").write_text(text.replace('"sources": ["head.bias"]', '"sources": []'))
    eject = ["eject", "n.json", "--skeleton", "skeleton.eqx", "-o", "other.py"]
    assert run(eject) == 3
    assert ".head.bias" in capsys.readouterr().err
    assert not Path("other.py").exists()
    assert run(["eject", "m.json", "--skeleton", "m.json"]) == 4
