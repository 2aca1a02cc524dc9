"""Checkpoints, skeletons and mappings of any size, written without holding them in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.transform import Concat, Expr, Flip, Permute, Shape, Split, Stack, Take
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import head_line
from s2p_tui.session.session import Session

_BLOCK = 1 << 25
_SHARDS = 16

Tensor = tuple[str, Shape, str]
"""Name, shape and dtype."""


@dataclass(frozen=True)
class Pair:
    """A checkpoint and a skeleton; by order unless there is a mapping."""

    model: Path
    skeleton: Path
    mapping: Path | None = None


def equal_tensors(count: int, total: int, dtype: str = "float32") -> list[Tensor]:
    """Matrices of together about `total` bytes, of rows of 256 or fewer elements.

    Two to a layer, since names that differ by a number alone say nothing to the matcher.
    """
    elements = total // count // dtype_named(dtype).itemsize
    row = min(256, elements)
    names = (f"layers.{n // 2}.{('weight', 'bias')[n % 2]}" for n in range(count))
    return [(name, (elements // row, row), dtype) for name in names]


def mixture_of_experts(layers: int, experts: int) -> list[Tensor]:
    """Tiny tensors, named as those of a large language model are: three per expert and two more."""
    return [
        (f"layers.{layer}.{name}", shape, "bfloat16")
        for layer in range(layers)
        for name, shape in (
            ("attn.weight", (4, 4)),
            *(
                (f"experts.{expert}.{part}.weight", shape)
                for expert in range(experts)
                for part, shape in (("gate", (2, 4)), ("up", (2, 4)), ("down", (4, 2)))
            ),
            ("norm.weight", (4,)),
        )
    ]


def write_safetensors(path: Path, tensors: Sequence[Tensor]) -> Path:
    """A checkpoint of moderate random numbers."""
    with path.open("wb") as stream:
        stream.write(header_for(tensors))
        for _, shape, dtype in tensors:
            for block in _blocks(shape, dtype):
                stream.write(block)
    return path


def write_hollow(path: Path, tensors: Sequence[Tensor]) -> Path:
    """A checkpoint of zeros that takes no room on the disk; for memory, never for time."""
    head = header_for(tensors)
    with path.open("wb") as stream:
        stream.write(head)
        sizes = (prod(shape) * dtype_named(dtype).itemsize for _, shape, dtype in tensors)
        stream.truncate(len(head) + sum(sizes))
    return path


def write_shards(folder: Path, tensors: Sequence[Tensor], count: int) -> Path:
    """A folder of shards with the index that Hugging Face puts beside them."""
    folder.mkdir()
    weight_map: dict[str, str] = {}
    size = -(-len(tensors) // count)
    for number in range(count):
        held = tensors[number * size : (number + 1) * size]
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        write_safetensors(folder / name, held)
        weight_map |= {key: name for key, _, _ in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_torch(path: Path, tensors: Sequence[Tensor]) -> Path:
    """The same as `torch.save` writes it; holds it in memory meanwhile."""
    import torch

    state_dict: dict[str, torch.Tensor] = {}
    for name, shape, dtype in tensors:
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        flat, position = tensor.reshape(-1).view(torch.uint8).numpy(), 0
        for block in _blocks(shape, dtype):
            flat[position : position + len(block)] = np.frombuffer(block, np.uint8)
            position += len(block)
        state_dict[name] = tensor
    torch.save(state_dict, path)
    return path


def write_skeleton(path: Path, leaves: Sequence[Tensor]) -> Path:
    """A skeleton without values."""
    path.write_bytes(head_line(Leaf(*leaf, has_value=False) for leaf in leaves))
    return path


def plain_pair(folder: Path, name: str, tensors: Sequence[Tensor], suffix: str) -> Pair:
    """A checkpoint and the skeleton of the same shapes in the same order.

    Args:
        folder: Where they go.
        name: What they are called.
        tensors: What the checkpoint holds.
        suffix: `.pt`, `.safetensors`, or `.shards` for a folder of 16.
    """
    if suffix == ".shards":
        model = write_shards(folder / name, tensors, _SHARDS)
    else:
        write = write_torch if suffix == ".pt" else write_safetensors
        model = write(folder / f"{name}{suffix}", tensors)
    leaves = [(_key_path(key), shape, dtype) for key, shape, dtype in tensors]
    return Pair(model, write_skeleton(folder / f"{name}_skeleton.eqx", leaves))


def _key_path(key: str) -> str:
    """`layers.0.weight` as a pytree has it: `.layers[0].weight`."""
    return "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in key.split("."))


def transformed_pair(
    folder: Path,
    name: str,
    tensors: Sequence[Tensor],
    rows: Sequence[tuple[Expr, Shape]],
    dtype: str = "float32",
    write: Callable[[Path, Sequence[Tensor]], Path] = write_safetensors,
) -> Pair:
    """A checkpoint, a skeleton, and the mapping file that gives each leaf its source."""
    leaves = [(f".leaf{n}", shape, dtype) for n, (_, shape) in enumerate(rows)]
    pair = Pair(
        write(folder / f"{name}.safetensors", tensors),
        write_skeleton(folder / f"{name}_skeleton.eqx", leaves),
        folder / f"{name}.mapping.json",
    )
    session = Session.open(pair.model, pair.skeleton)
    wanted = ((n, Row(expr, trusted=True)) for n, (expr, _) in enumerate(rows))
    session.edit(SetRows(tuple(wanted)))
    session.save_mapping(folder / f"{name}.mapping.json")
    session.close()
    return pair


def transforms(folder: Path, total: int) -> Iterator[tuple[str, str, Pair]]:
    """One pair per transform, each with an output of about `total` bytes, made when asked for.

    Before it what it is, and what it may cost beside `dd`.
    """
    width = 4096
    height = total // 4 // width
    table: list[Tensor] = [("table", (height, width), "float32")]
    half: list[Tensor] = [("table", (height, width), "bfloat16")]
    wide: list[Tensor] = [("table", (2 * height, width), "float32")]
    words: list[Tensor] = [("embed", (1 << 17, width), "bfloat16")]
    parts: list[Tensor] = [(f"expert.{n}", (height // 8, width), "float32") for n in range(8)]
    layers: list[Tensor] = [(f"layer.{n}", (height // 32, width), "float32") for n in range(32)]
    kernels: list[Tensor] = [("kernel", (1024, total // 4 // 1024 // 9, 3, 3), "float32")]
    linears: list[Tensor] = [(f"linear.{n}", (4 * 1024, 1024), "float32") for n in range(32)]
    takes = tuple(Take(key) for key, _, _ in parts)
    whole = Take("table")
    turned = [(Permute(Take(key), (1, 0)), shape[::-1]) for key, shape, _ in linears]
    quarter = width // 4
    quarters = [
        (Split(whole, 1, n * quarter, (n + 1) * quarter), (height, quarter)) for n in range(4)
    ]
    swapped = Flip(Permute(Take("kernel"), (1, 0, 2, 3)), (2, 3))
    stacked = Stack(tuple(Take(key) for key, _, _ in layers), 0)
    first, second, *window = kernels[0][1]
    cases: list[tuple[str, str, list[Tensor], list[tuple[Expr, Shape]], str]] = [
        ("cast bf16 to float32", "≤ 1.5", half, [(whole, (height, width))], "float32"),
        ("cast float32 to bf16", "≤ 1.5", wide, [(whole, (2 * height, width))], "bfloat16"),
        (f"permute {height}×{width}", "≤ 3", table, [(Permute(whole, (1, 0)), (width, height))],
         "float32"),
        ("permute 128k×4k bf16 embedding", "≤ 3", words,
         [(Permute(Take("embed"), (1, 0)), (width, 1 << 17))], "bfloat16"),
        ("permute 32 kernels of 4k×1k", "≤ 3", linears, turned, "float32"),
        ("split into 4 on axis 1", "≤ 2", table, quarters, "float32"),
        ("split into 3 on axis 0", "≤ 2", *thirds(total), "float32"),
        ("stack 32 layers", "≤ 2", layers, [(stacked, (32, height // 32, width))], "float32"),
        ("stack 8 on axis 1", "≤ 2", parts,
         [(Stack(takes, 1), (height // 8, 8, width))], "float32"),
        ("join 8 on axis 1", "≤ 2", parts,
         [(Concat(takes, 1), (height // 8, 8 * width))], "float32"),
        ("swap and flip 3×3 kernels", "≤ 2", kernels,
         [(swapped, (second, first, *window))], "float32"),
    ]  # fmt: skip
    for number, (what, budget, tensors, rows, dtype) in enumerate(cases):
        yield what, budget, transformed_pair(folder, f"transform{number}", tensors, rows, dtype)


def thirds(total: int) -> tuple[list[Tensor], list[tuple[Expr, Shape]]]:
    """One tensor of about `total` bytes, as of queries, keys and values, and its three parts."""
    width = 4096
    height = total // 4 // width // 3
    parts = [Split(Take("qkv"), 0, n * height, (n + 1) * height) for n in range(3)]
    return [("qkv", (3 * height, width), "float32")], [(part, (height, width)) for part in parts]


def _blocks(shape: Shape, dtype: str) -> Iterator[bytes]:
    left = prod(shape) * dtype_named(dtype).itemsize
    block = _random_block(dtype)
    while left:
        part = block[:left]
        yield part
        left -= len(part)


_made: dict[str, bytes] = {}


def _random_block(dtype: str) -> bytes:
    if dtype not in _made:
        numbers = np.random.default_rng(0).standard_normal(_BLOCK // 4, np.float32)
        # The upper half of a float32 is a bfloat16 of about the same value.
        raw = numbers.view(np.uint16)[1::2] if dtype == "bfloat16" else numbers
        _made[dtype] = raw.tobytes()
    return _made[dtype]
