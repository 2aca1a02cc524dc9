"""The output is, byte for byte, what Equinox and safetensors would have written themselves."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.transform import Constant, Flip, Permute, Reshape, Split, Stack, Take
from s2p_tui.errors import UsageError
from s2p_tui.formats.pytree.skeleton import save_skeleton, target_of
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import open_target
from s2p_tui.session.session import Session
from tests.helpers.files import array_bytes, folder, save_legacy, save_safetensors, save_zip
from tests.helpers.sessions import open_pair
from tests.helpers.trees import (
    NUMPY_DTYPES,
    net_with_state,
    random_array,
    saved_leaves,
    seeds,
    trees,
)

CASTS: dict[str, tuple[str, ...]] = {
    "float32": ("float32", "float32", "float64", "float16", "bfloat16"),
    "float16": ("float16", "float32", "bfloat16"),
    "bfloat16": ("bfloat16", "float32", "float16"),
    "int8": ("int8", "int64"),
    "int32": ("int32", "int64", "uint8"),
    "int64": ("int64", "int32"),
    "uint8": ("uint8", "int32"),
    "uint16": ("uint16", "uint8"),
    "bool": ("bool",),
    "float64": ("float64", "float32"),
    "complex64": ("complex64", "complex128"),
    "complex128": ("complex128", "complex64"),
}


def equinox_bytes(tree: Any) -> bytes:
    stream = io.BytesIO()
    eqx.tree_serialise_leaves(stream, tree)
    return stream.getvalue()


def with_leaf(leaf: Any, tensor: torch.Tensor) -> Any:
    """The leaf as someone would convert it by hand, with torch's own cast."""
    dtype = getattr(torch, str(leaf.dtype))
    cast = tensor.to(dtype).contiguous()
    view = torch.empty(cast.shape, dtype=cast.dtype).copy_(cast)
    if dtype == torch.bfloat16:
        array = view.view(torch.int16).numpy().view(leaf.dtype)
    else:
        array = view.numpy()
    return jnp.asarray(array) if isinstance(leaf, jax.Array) else array


def assert_loads(path: Path, tree: Any, converted: Any) -> None:
    """Plain Equinox loads the file into the tree, bit by bit the converted one."""
    loaded = eqx.tree_deserialise_leaves(path, tree)
    assert jtu.tree_structure(loaded) == jtu.tree_structure(tree)
    for found, expected in zip(saved_leaves(loaded), saved_leaves(converted), strict=True):
        assert type(found) is type(expected)
        assert array_bytes(np.asarray(found)) == array_bytes(np.asarray(expected))


@st.composite
def conversions(draw: st.DrawFn) -> tuple[Any, dict[int, str], dict[str, torch.Tensor], Any]:
    """A tree, the key that feeds some of its leaves, the tensors shuffled, the converted tree."""
    tree = draw(trees)
    leaves, structure = jtu.tree_flatten(tree)
    rows: dict[int, str] = {}
    tensors = {"unused": torch.ones(2)}
    number = 0
    for place, leaf in enumerate(leaves):
        if not eqx.is_array_like(leaf):
            continue
        if isinstance(leaf, jax.Array | np.ndarray) and draw(st.booleans()):
            dtype = draw(st.sampled_from(CASTS[str(leaf.dtype)]))
            array = random_array(
                "float32" if dtype == "bfloat16" else dtype, leaf.shape, draw(seeds)
            )
            tensor = torch.from_numpy(np.array(array)).to(getattr(torch, dtype))
            rows[number] = key = f"entry.{number}"
            tensors[key] = tensor
            leaves[place] = with_leaf(leaf, tensor)
        number += 1
    shuffled = {key: tensors[key] for key in draw(st.permutations(list(tensors)))}
    return tree, rows, shuffled, jtu.tree_unflatten(structure, leaves)


@settings(max_examples=100, deadline=None)
@given(conversions(), st.sampled_from([save_zip, save_legacy, save_safetensors]))
@pytest.mark.slow("converts a hundred random trees")
def test_random_trees(conversion: Any, save: Any) -> None:
    tree, rows, tensors, converted = conversion
    if save is save_safetensors:
        assume(all(tensor.dtype != torch.complex128 for tensor in tensors.values()))
    with folder() as where:
        save(tensors, where / "model.pt")
        save_skeleton(where / "skeleton.eqx", tree)
        session = Session(open_checkpoint(where / "model.pt"), open_target(where / "skeleton.eqx"))
        session.edit(
            SetRows(
                tuple(
                    (n, Row(Take(rows[n]) if n in rows else None, gap=n not in rows))
                    for n in range(len(session.target.skeleton))
                )
            )
        )
        session.allow_unused(["unused*"])
        written = session.convert(where / "out.eqx", chunk_bytes=4096).written
        content = (where / "out.eqx").read_bytes()
        assert content == equinox_bytes(converted)
        assert written.size == len(content)
        assert_loads(where / "out.eqx", tree, converted)
        _check_safetensors(session, where / "out.safetensors", converted)
        session.close()


def _check_safetensors(session: Session, path: Path, converted: Any) -> None:
    leaves = list(session.target.skeleton)
    if any(leaf.dtype == "complex128" for leaf in leaves):
        with pytest.raises(UsageError, match="complex128"):
            session.convert(path)
        assert not path.exists()
        return
    session.convert(path)
    with safe_open(path, "np") as found:
        assert set(found.keys()) == {leaf.path for leaf in leaves}
        for leaf, value in zip(leaves, saved_leaves(converted), strict=True):
            array = found.get_tensor(leaf.path)
            assert array.shape == leaf.shape
            assert str(array.dtype) == leaf.dtype
            assert array_bytes(array) == array_bytes(np.asarray(value))


@pytest.mark.parametrize("modes", [("ema",), ("batch",), ("ema", "batch")])
def test_a_model_with_state(tmp_path: Path, modes: tuple[str, ...]) -> None:
    pair = net_with_state(modes)
    leaves, structure = jtu.tree_flatten(pair)
    tensors: dict[str, torch.Tensor] = {}
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            array = random_array(str(leaf.dtype), leaf.shape, number)
            tensors[f"entry.{number}"] = torch.from_numpy(np.array(array))
            leaves[number] = jnp.asarray(array)
    session = open_pair(tmp_path, tensors, pair)
    arrays = [n for n, leaf in enumerate(session.target.skeleton) if leaf.kind == "array"]
    session.edit(
        SetRows(
            tuple(  # as a plain copy an entry would be subject to the rule of the leaf's layer
                (n, Row(Reshape(Take(key), tuple(tensors[key].shape)), trusted=True))
                for n, key in zip(arrays, tensors, strict=True)
            )
        )
    )
    converted = jtu.tree_unflatten(structure, leaves)
    session.convert(tmp_path / "out.eqx")
    assert (tmp_path / "out.eqx").read_bytes() == equinox_bytes(converted)
    assert_loads(tmp_path / "out.eqx", pair, converted)
    session.close()


@pytest.mark.parametrize("form", [save_zip, save_legacy])
@pytest.mark.parametrize("chunk", [4096, 5000, 1 << 16, 64 << 20])
def test_chunk_sizes_and_transforms_give_the_same_bytes(
    tmp_path: Path, form: Any, chunk: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(60, 70, 5, generator=rng)
    state = {"w": weight, "v": weight[::2].permute(2, 1, 0), "n": torch.randn(9000, generator=rng)}
    form(state, tmp_path / "model.pt")
    tree = [
        jnp.zeros((5, 60, 70)),
        jnp.zeros((2, 5, 70, 30), jnp.bfloat16),
        np.zeros((4500, 2)),
        np.asfortranarray(random_array("float64", (130, 140), 1)),
        jnp.zeros((3,), bool),
    ]
    save_skeleton(tmp_path / "skeleton.eqx", tree)
    session = Session(
        open_checkpoint(tmp_path / "model.pt"), open_target(tmp_path / "skeleton.eqx")
    )
    halves = tuple(Split(Take("n"), 0, start, start + 4500) for start in (0, 4500))
    session.edit(
        SetRows(
            (
                (0, Row(Flip(Permute(Take("w"), (2, 0, 1)), (1, 2)))),
                (1, Row(Stack((Take("v"), Take("v")), 0))),
                (2, Row(Stack(halves, 1))),
                (3, Row(gap=True)),
                (4, Row(Constant(1, (3,)), trusted=True)),
            )
        )
    )
    session.convert(tmp_path / "out.eqx", chunk_bytes=chunk)
    w, v, n = (state[key].numpy() for key in "wvn")
    expected = [
        jnp.asarray(np.flip(w.transpose(2, 0, 1), (1, 2))),
        jnp.asarray(np.stack([v, v])).astype(jnp.bfloat16),
        np.stack([n[:4500], n[4500:]], 1).astype(np.float64),
        tree[3],
        jnp.ones((3,), bool),
    ]
    assert (tmp_path / "out.eqx").read_bytes() == equinox_bytes(expected)
    session.close()


def test_a_dtype_for_all_real_floats(tmp_path: Path) -> None:
    tree = [jnp.zeros(3), jnp.zeros(2, jnp.int32), 0.5, jnp.zeros(1, jnp.complex64), jnp.ones(2)]
    tensors = {"a": torch.tensor([1.5, 2, 3]), "b": torch.tensor([1, 2], dtype=torch.int32)}
    session = open_pair(tmp_path, tensors, tree)
    session.edit(SetRows(((3, Row(gap=True)), (4, Row(gap=True)))))
    session.convert(tmp_path / "out.eqx", dtype="bfloat16")
    expected = [
        jnp.asarray([1.5, 2, 3], jnp.bfloat16), jnp.asarray([1, 2]), 0.5,
        jnp.zeros(1, jnp.complex64), jnp.ones(2, jnp.bfloat16),
    ]  # fmt: skip
    assert (tmp_path / "out.eqx").read_bytes() == equinox_bytes(expected)
    session.close()


def test_a_plain_eqx_as_the_skeleton(tmp_path: Path) -> None:
    tree = [jnp.zeros((2, 3), jnp.bfloat16), np.asfortranarray(np.eye(3)), 0.5, jnp.arange(4)]
    eqx.tree_serialise_leaves(tmp_path / "plain.eqx", tree)
    save_zip({"w": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "model.pt")
    session = Session(open_checkpoint(tmp_path / "model.pt"), open_target(tmp_path / "plain.eqx"))
    session.edit(SetRows(tuple((n, Row(gap=True)) for n in (1, 2, 3))))
    session.convert(tmp_path / "out.eqx")
    expected = [jnp.ones((2, 3), jnp.bfloat16), *tree[1:]]
    assert (tmp_path / "out.eqx").read_bytes() == equinox_bytes(expected)
    session.close()


def test_a_pytree_in_memory(tmp_path: Path) -> None:
    kept = [np.asfortranarray(np.eye(3)), np.arange(12.0).reshape(4, 3)[::2, ::-1], jnp.ones(2)]
    save_zip({"w": torch.ones(2, 3)}, tmp_path / "model.pt")
    target = target_of([jnp.zeros((2, 3)), *kept, 0.5], "in memory")
    session = Session(open_checkpoint(tmp_path / "model.pt"), target)
    session.edit(SetRows(tuple((n, Row(gap=True)) for n in (1, 2, 3))))
    session.convert(tmp_path / "out.eqx", chunk_bytes=4096)
    expected = equinox_bytes([jnp.ones((2, 3)), *kept, 0.5])
    assert (tmp_path / "out.eqx").read_bytes() == expected
    session.close()


@pytest.mark.slow("converts 32 MiB with every allocation traced")
def test_memory_stays_within_two_chunks(tmp_path: Path) -> None:
    chunk = 2 << 20
    weight = torch.arange(8 << 20, dtype=torch.float32).reshape(1024, 64, 128)
    save_zip({"w": weight}, tmp_path / "model.pt")
    save_skeleton(tmp_path / "skeleton.eqx", [jax.ShapeDtypeStruct((128, 1024, 64), "bfloat16")])
    session = Session(
        open_checkpoint(tmp_path / "model.pt"), open_target(tmp_path / "skeleton.eqx")
    )
    session.edit(SetRows(((0, Row(Permute(Take("w"), (2, 0, 1)))),)))
    del weight
    tracemalloc.start()
    session.convert(tmp_path / "out.eqx", chunk_bytes=chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chunk // 8 < peak <= 2 * chunk + (1 << 20)
    session.close()


def test_the_table_of_casts_covers_the_trees() -> None:
    assert set(NUMPY_DTYPES) <= set(CASTS)
