"""Chunks of any array of any expression: they cover it once, and hold what NumPy makes of it."""

from __future__ import annotations

import tempfile
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.transform import Permute, Stack, Take
from s2p_tui.conversion.orbax import OrbaxConversion, merge, write_part
from s2p_tui.conversion.orbax_finish import commit, verify_part
from s2p_tui.conversion.orbax_grid import INNER_BYTES, Grid
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.errors import UsageError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.formats.tree_nodes import nodes_to_json
from tests.helpers.exprs import Case, cases, slices
from tests.helpers.orbax_pair import arrays_in
from tests.helpers.sessions import checkpoint_of

shapes = st.lists(st.integers(1, 40), max_size=4).map(tuple)


def grid_of(expr: Take | Permute | Stack, shape: tuple, checkpoint: Checkpoint, size: int) -> Grid:
    leaf = Leaf(".a", shape, "float32", has_value=False)
    tree = nodes_to_json([("array", ("a",))])
    target = Target("skeleton", (), 0, Skeleton((leaf,)), ArrayTensors({}), tree)
    return Grid(Plan((Instruction(leaf, expr, "float32"),), "orbax"), checkpoint, target, size)


@settings(max_examples=200)
@given(shapes, st.integers(1, 4096))
@pytest.mark.slow("tries thousands of shapes")
def test_chunks_cover_an_array_once(shape: tuple, size: int) -> None:
    checkpoint = checkpoint_of({"a": np.zeros(shape, np.float32)})
    grid = grid_of(Take("a"), shape, checkpoint, size * 4)
    (array,) = grid.arrays
    covered = np.zeros(shape, int)
    for chunk in grid.chunks:
        covered[(..., *slices(chunk.region))] += 1
    assert (covered == 1).all()
    assert all(whole % part == 0 for whole, part in zip(array.chunk, array.inner, strict=True))
    # Rounding up to whole inner chunks adds less than one of them along each axis.
    assert prod(array.chunk) <= size * 2 ** len(shape)
    assert sum(chunk.is_first for chunk in grid.chunks) == 1
    assert len({chunk.key for chunk in grid.chunks}) == len(grid.chunks)


LEAST = 1 << 14
LARGE = [
    ((32_768, 2_048), 64 << 20), ((50_257, 768), 64 << 20), ((151_936, 5_120), 64 << 20),
    ((3, 1_000_003), 4 << 20), ((58, 256, 71, 20), 16 << 20), ((1 << 26,), 16 << 20),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "size"), LARGE)
def test_inner_chunks_let_a_loader_read_its_shard_alone(shape: tuple, size: int) -> None:
    """Each axis of any length is in eight pieces or more, of a MiB at the most."""
    checkpoint = checkpoint_of({"a": np.broadcast_to(np.float32(0), shape)})
    (array,) = grid_of(Take("a"), shape, checkpoint, size).arrays
    assert prod(array.inner) * 4 <= INNER_BYTES
    pieces = [ceil(length / part) for length, part in zip(shape, array.inner, strict=True)]
    # Unless they would become very small.
    assert min(pieces) >= min(8, *shape) or prod(array.inner) * 4 <= LEAST
    padded = prod(ceil(n / c) * c for n, c in zip(shape, array.inner, strict=True))
    assert padded <= 1.06 * prod(shape)


def test_axes_that_no_source_runs_along_are_cut_first() -> None:
    """Then each chunk is made of whole rows of its sources."""
    shape = (512, 1024)
    checkpoint = checkpoint_of({"a": np.zeros(shape, np.float32), "b": np.zeros(shape, np.float32)})
    (plain,) = grid_of(Take("a"), shape, checkpoint, 1 << 18).arrays
    assert plain.chunk == (64, 1024)
    (turned,) = grid_of(Permute(Take("a"), (1, 0)), shape[::-1], checkpoint, 1 << 18).arrays
    assert turned.chunk == (1024, 64)
    stack = Stack((Take("a"), Take("b")), 0)
    (stacked,) = grid_of(stack, (2, *shape), checkpoint, 1 << 18).arrays
    assert stacked.chunk == (1, 64, 1024)


@settings(max_examples=40)
@given(cases(steps=3), st.integers(4, 400), st.integers(1, 3))
@pytest.mark.slow("writes several checkpoints")
def test_any_expression_is_stored_as_numpy_makes_it(case: Case, size: int, workers: int) -> None:
    dtype = "float64" if case.result.dtype.kind == "f" else str(case.result.dtype)
    leaf = Leaf(".a", case.result.shape, dtype, has_value=False)
    tree = nodes_to_json([("array", ("a",))])
    target = Target("skeleton", (), 0, Skeleton((leaf,)), ArrayTensors({}), tree)
    plan = Plan((Instruction(leaf, case.expr, dtype),), "orbax")
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/m.orbax"

        def made() -> OrbaxConversion:
            checkpoint = checkpoint_of(case.arrays)
            return OrbaxConversion.of(plan, checkpoint, target, output, chunk_bytes=size, jobs=1)

        if not case.result.size:
            with pytest.raises(UsageError, match="no arrays without elements"):
                made()
            return
        for part in range(workers):
            write_part(made(), part, workers)
        merge(made())
        verified = verify_part(made())
        commit(made(), verified, {})
        found = arrays_in(Path(output))["a"]
    assert found.shape == case.result.shape
    assert np.array_equal(found, case.result.astype(dtype))
