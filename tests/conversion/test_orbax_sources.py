"""The bytes of sources that workers read, against those that the arrays are made of."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Flip,
    Permute,
    Reshape,
    Scale,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    shape_of,
)
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.conversion.needs import Needs
from s2p_tui.conversion.orbax import OrbaxConversion, merge, write_part
from s2p_tui.conversion.orbax_estimate import estimate
from s2p_tui.conversion.orbax_finish import commit, verify_part
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.formats import tensors
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.formats.tree_nodes import nodes_to_json
from tests.helpers.orbax_pair import arrays_in

CHUNK = 1 << 14
W = Take("w")
HEADS = Reshape(W, (8, 3, 16, 64))
IN_COLUMNS = Reshape(W, (64, 8, 3, 16))
ROTARY = Reshape(Permute(Reshape(W, (4, 2, 16, 96)), (0, 2, 1, 3)), (128, 96))
LAYERS = {f"w{n}": (64, 192) for n in range(4)}
EACH = tuple(map(Take, LAYERS))


def thirds(of: Expr, axis: int, size: int) -> list[Expr]:
    return [Split(of, axis, n * size, (n + 1) * size) for n in range(3)]


def turned(exprs: Sequence[Expr]) -> list[Expr]:
    return [Permute(expr, (1, 0)) for expr in exprs]


KINDS: dict[str, tuple[dict[str, tuple[int, ...]], list[Expr]]] = {
    "copied": ({"w": (256, 128)}, [W]),
    "transposed": ({"w": (256, 128)}, turned([W])),
    "wide and transposed": ({"w": (32, 2048)}, turned([W])),
    "fused rows": ({"w": (384, 64)}, thirds(W, 0, 128)),
    "fused rows, transposed": ({"w": (384, 64)}, turned(thirds(W, 0, 128))),
    "fused columns": ({"w": (128, 384)}, thirds(W, 1, 128)),
    "fused columns, transposed": ({"w": (128, 384)}, turned(thirds(W, 1, 128))),
    "fewer keys than queries": (
        {"w": (128, 192)},
        [Split(W, 1, 0, 128), Split(W, 1, 128, 160), Split(W, 1, 160, 192)],
    ),
    "many narrow columns": (
        {"w": (512, 96)},
        [Split(W, 1, n * 8, (n + 1) * 8) for n in range(12)],
    ),
    "fused by heads": (
        {"w": (384, 64)},
        [Reshape(Split(HEADS, 1, n, n + 1), (128, 64)) for n in range(3)],
    ),
    "fused by heads in columns": (
        {"w": (64, 384)},
        [Reshape(Split(IN_COLUMNS, 2, n, n + 1), (64, 128)) for n in range(3)],
    ),
    "rotary halves": ({"w": (128, 96)}, [ROTARY]),
    "rotary halves, transposed": ({"w": (128, 96)}, turned([ROTARY])),
    "gate and up, row by row": (
        {"w": (256, 64)},
        [Reshape(Split(Reshape(W, (128, 2, 64)), 1, n, n + 1), (128, 64)) for n in range(2)],
    ),
    "gate and up, column by column": (
        {"w": (64, 256)},
        [Reshape(Split(Reshape(W, (64, 128, 2)), 2, n, n + 1), (64, 128)) for n in range(2)],
    ),
    "experts' gate and up": ({"w": (4, 32, 256)}, [Split(W, 2, 0, 128), Split(W, 2, 128, 256)]),
    "experts apart": (
        {"w": (4, 64, 96)},
        [Reshape(Split(W, 0, n, n + 1), (64, 96)) for n in range(4)],
    ),
    "convolution": ({"w": (64, 64, 3, 3)}, [Permute(W, (2, 3, 1, 0))]),
    "convolution of few": ({"w": (8, 256, 5, 5)}, [Permute(W, (2, 3, 1, 0))]),
    "transposed convolution": ({"w": (64, 64, 3, 3)}, [Permute(Flip(W, (2, 3)), (1, 0, 2, 3))]),
    "transposed convolution of Flax": (
        {"w": (64, 64, 3, 3)},
        [Permute(Flip(W, (2, 3)), (2, 3, 0, 1))],
    ),
    "patches as channels last": (
        {"w": (64, 3, 16, 16)},
        [Reshape(Permute(W, (2, 3, 1, 0)), (768, 64))],
    ),
    "attention's heads": ({"w": (128, 128)}, [Reshape(Permute(W, (1, 0)), (128, 8, 16))]),
    "stacked": (LAYERS, [Stack(EACH, 0)]),
    "stacked in the middle": (LAYERS, [Stack(EACH, 1)]),
    "stacked last": (LAYERS, [Stack(EACH, 2)]),
    "stacked and transposed": (LAYERS, [Stack(tuple(turned(EACH)), 0)]),
    "fused columns of layers stacked": (
        LAYERS,
        [Stack(tuple(thirds(layer, 1, 64)[n] for layer in EACH), 0) for n in range(3)],
    ),
    "merged columns": (LAYERS, [Concat(EACH, 1)]),
    "merged and transposed": (LAYERS, [Permute(Concat(EACH, 0), (1, 0))]),
    "a sum": ({"w": (128, 128), "v": (128, 128)}, [Sum((Scale(W, 2.0), Take("v")))]),
    "tied": ({"w": (256, 64)}, [W, Permute(W, (1, 0))]),
    "a norm by rows": ({"g": (64, 1), "w": (64, 256)}, [WeightNorm((Take("g"), W))]),
    "flattened otherwise": ({"w": (255, 64)}, [Reshape(W, (64, 255))]),
}  # fmt: skip


def written(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A file of ordinary numbers, none like another of its tensor."""
    file = folder / "model.safetensors"
    data = b"".join(
        (np.arange(prod(shape), dtype=np.float32) / 8 - n).tobytes()
        for n, shape in enumerate(shapes.values())
    )
    described = [(key, shape, "float32") for key, shape in shapes.items()]
    file.write_bytes(header_for(described) + data)
    return open_checkpoint(file)


def conversion_of(checkpoint: Checkpoint, exprs: Sequence[Expr], output: Path) -> OrbaxConversion:
    shape = checkpoint.state_dict.shape
    leaves = tuple(
        Leaf(f".leaf{n}", shape_of(expr, shape), "float32", has_value=False)
        for n, expr in enumerate(exprs)
    )
    tree = nodes_to_json(("array", (leaf.path[1:],)) for leaf in leaves)
    target = Target("skeleton", (), 0, Skeleton(leaves), ArrayTensors({}), tree)
    rows = (Instruction(*pair, "float32") for pair in zip(leaves, exprs, strict=True))
    plan = Plan(tuple(rows), "orbax")
    return OrbaxConversion.of(plan, checkpoint, target, str(output), chunk_bytes=CHUNK, jobs=2)


def needed(checkpoint: Checkpoint, exprs: Sequence[Expr]) -> int:
    """The bytes of all elements that any array is made of, each once."""
    shape = checkpoint.state_dict.shape
    marks = {entry.key: np.zeros(entry.shape, bool) for entry in checkpoint.state_dict}
    for expr in exprs:
        whole = tuple((0, size) for size in shape_of(expr, shape))
        for need in Needs(shape).of(expr, whole):
            marks[need.key][tuple(slice(*bounds) for bounds in need.region)] = True
    return 4 * sum(int(mark.sum()) for mark in marks.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow("writes several checkpoints")
def test_each_byte_is_read_once_and_as_planned(kind: str, tmp_path: Path) -> None:
    shapes, exprs = KINDS[kind]
    checkpoint = written(tmp_path, shapes)
    read: list[int] = []
    original = tensors.pread_into

    def counted(descriptor: int, buffer: memoryview, position: int, file: Path) -> None:
        read.append(len(buffer))
        original(descriptor, buffer, position, file)

    state_dict = checkpoint.state_dict
    for workers in (1, 2, 4):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            output = Path(folder, "m.orbax")
            conversion = conversion_of(checkpoint, exprs, output)
            assert len(conversion.grid.chunks) > len(exprs)
            costs = estimate(conversion, workers)
            for part in range(workers):
                read.clear()
                with patch.object(tensors, "pread_into", counted):
                    write_part(conversion, part, workers)
                assert (sum(read), len(read)) == (costs[part].read, costs[part].requests)
            assert sum(cost.read for cost in costs) <= 1.05 * needed(checkpoint, exprs)
            assert sum(cost.written for cost in costs) == conversion.grid.total
            merge(conversion)
            read.clear()
            with patch.object(tensors, "pread_into", counted):
                verified = verify_part(conversion)
            assert sum(read) == sum(cost.read for cost in costs)
            commit(conversion, verified, {})
            found = arrays_in(output)
        for number, expr in enumerate(exprs):
            whole = tuple((0, size) for size in shape_of(expr, state_dict.shape))
            wanted = Evaluator(state_dict, checkpoint.tensors).region(expr, whole)
            assert np.array_equal(found[f"leaf{number}"], wanted.astype(np.float32))
    checkpoint.tensors.close()


def test_a_family_is_cut_at_the_same_places_and_shared_as_one(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, {"w": (128, 192), "v": (256, 64)})
    columns = [Split(W, 1, 0, 128), Split(W, 1, 128, 160), Split(W, 1, 160, 192)]
    conversion = conversion_of(checkpoint, [*columns, Take("v")], tmp_path / "m.orbax")
    *family, alone = conversion.grid.arrays
    assert len({array.chunk[0] for array in family}) == 1
    assert alone.chunk == (64, 64)
    groups = [group for group in conversion.grid.groups if len(group) > 1]
    assert all(len({chunk.region[0] for chunk in group}) == 1 for group in groups)
    assert all(sum(chunk.nbytes for chunk in group) <= CHUNK for group in groups)
    checkpoint.tensors.close()
