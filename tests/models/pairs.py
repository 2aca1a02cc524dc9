"""Pairs of models written as tables: a line per layer, with its name on either side.

`entry .path layer sizes`; in a run of lines `#` stands for 0, 1, 2 and `%` for 1, 2, 3. An empty
line parts two runs. `param` and `turned` are arrays of the user's own modules, the second used as
`x @ W` on one side and as `W @ x` on the other.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from tests.models.twin import QUICK

_TABLES = Path(__file__).parent / "tables"
_KEY = jax.random.key(0, impl=QUICK)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\['([^']+)'\]")
_BIASES = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
Order = Callable[[list[str]], Sequence[str]]


@dataclass(frozen=True)
class Layer:
    """One layer on both sides.

    Attributes:
        entry: Its name in the state dict.
        path: Its key path in the model.
        kind: What it is.
        sizes: Arguments of its constructor.
    """

    entry: str
    path: str
    kind: str
    sizes: tuple[int, ...]

    def torch(self) -> Any:
        """The PyTorch layer, or the array, with numbers of its own."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(zlib.crc32(self.entry.encode()))
            if self.kind in ("param", "turned"):
                return torch.randn(self.sizes)
            layer = _TORCH[self.kind](*self.sizes)
            for tensor in (*layer.parameters(), *layer.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
        return layer.eval()

    def eqx(self) -> Any:
        """The Equinox layer, or the array."""
        if self.kind in ("param", "turned"):
            return jnp.zeros(self.sizes[:: -1 if self.kind == "turned" else 1])
        return _EQX[self.kind](*self.sizes)


@dataclass(frozen=True)
class Pair:
    """A model on both sides."""

    name: str
    layers: tuple[Layer, ...]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All entries, in the order of the table."""
        entries: dict[str, torch.Tensor] = {}
        for layer in self.layers:
            made = layer.torch()
            if isinstance(made, torch.Tensor):
                entries[layer.entry] = made
            else:
                entries |= {f"{layer.entry}.{key}": v for key, v in made.state_dict().items()}
        return entries

    def model(self, order: Order = list) -> Any:
        """The Equinox model, `(model, state)` where it has state.

        Args:
            order: The order of a module's fields, from that of the table.
        """
        tree: dict[str, Any] = {}
        for layer in self.layers:
            *around, last = _steps(layer.path)
            node = tree
            for step in around:
                node = node.setdefault(step, {})
            node[last] = layer
        if any(layer.kind == "batch_norm" for layer in self.layers):
            return eqx.nn.make_with_state(_closed)(tree, order)
        return _closed(tree, order)

    def torch_outputs(self) -> list[np.ndarray]:
        """What every layer makes of an input of its own."""
        return [_torch_output(layer, layer.torch()) for layer in self.layers]

    def eqx_outputs(self, tree: Any) -> list[np.ndarray]:
        """The same by the layers of an Equinox model in inference mode."""
        model, state = tree if isinstance(tree, tuple) else (tree, None)
        model = eqx.nn.inference_mode(model)
        return [_eqx_output(layer, _at(model, layer.path), state) for layer in self.layers]


def pairs(folder: str = "") -> list[Pair]:
    """All pairs in a folder of tables, by file name."""
    files = sorted((_TABLES / folder).glob("*.txt"))
    return [Pair(file.stem, tuple(_read(file.read_text()))) for file in files]


def _read(table: str) -> Iterator[Layer]:
    run: list[str] = []
    for line in (*table.splitlines(), ""):
        if "#" in line or "%" in line:
            run.append(line)
            continue
        for n in range(3 if run else 0):
            for each in run:
                yield _layer(each.replace("#", str(n)).replace("%", str(n + 1)))
        run = []
        if line:
            yield _layer(line)


def _layer(line: str) -> Layer:
    entry, path, kind, *sizes = line.split()
    return Layer(entry, path, kind, tuple(map(int, sizes)))


def _steps(path: str) -> list[str]:
    return [match[0] for match in _STEP.finditer(path)]


def _closed(node: Any, order: Order) -> Any:
    if isinstance(node, Layer):
        return node.eqx()
    values = {step: _closed(value, order) for step, value in node.items()}
    first = next(iter(values))
    if first.startswith("."):
        names = order([step[1:] for step in values])
        space = {"__annotations__": dict.fromkeys(names, Any), "__module__": __name__}
        return type(eqx.Module)("Model", (eqx.Module,), space)(
            **{name: values[f".{name}"] for name in names}
        )
    if first.startswith("['"):
        return {step[2:-2]: value for step, value in values.items()}
    return [values[f"[{n}]"] for n in range(len(values))]


def _at(model: Any, path: str) -> Any:
    for name, number, key in _STEP.findall(path):
        model = getattr(model, name) if name else model[int(number) if number else key]
    return model


_TORCH: dict[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear,
    "linear_no_bias": lambda i, o: nn.Linear(i, o, bias=False),
    "embedding": nn.Embedding,
    "layer_norm": nn.LayerNorm,
    "group_norm": nn.GroupNorm,
    "rms_norm": lambda size: nn.RMSNorm(size, eps=1e-5),
    "batch_norm": nn.BatchNorm2d,
    "conv1d": nn.Conv1d,
    "conv2d": lambda i, o, k, groups=1: nn.Conv2d(i, o, k, groups=groups),
    "conv2d_no_bias": lambda i, o, k: nn.Conv2d(i, o, k, bias=False),
    "conv_transpose2d": nn.ConvTranspose2d,
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "attention": lambda heads, size: nn.MultiheadAttention(size, heads, batch_first=True),
}
_EQX: dict[str, Callable[..., Any]] = {
    "linear": lambda i, o: eqx.nn.Linear(i, o, key=_KEY),
    "linear_no_bias": lambda i, o: eqx.nn.Linear(i, o, use_bias=False, key=_KEY),
    "embedding": lambda n, size: eqx.nn.Embedding(n, size, key=_KEY),
    "layer_norm": eqx.nn.LayerNorm,
    "group_norm": eqx.nn.GroupNorm,
    "rms_norm": lambda size: eqx.nn.RMSNorm(size, use_bias=False),
    "batch_norm": lambda size: eqx.nn.BatchNorm(size, "batch", mode="ema"),
    "conv1d": lambda i, o, k: eqx.nn.Conv1d(i, o, k, key=_KEY),
    "conv2d": lambda i, o, k, g=1: eqx.nn.Conv2d(i, o, k, groups=g, key=_KEY),
    "conv2d_no_bias": lambda i, o, k: eqx.nn.Conv2d(i, o, k, use_bias=False, key=_KEY),
    "conv_transpose2d": lambda i, o, k: eqx.nn.ConvTranspose2d(i, o, k, key=_KEY),
    "lstm": lambda i, size: eqx.nn.LSTMCell(i, size, key=_KEY),
    "gru": lambda i, size: eqx.nn.GRUCell(i, size, key=_KEY),
    "attention": lambda heads, size: eqx.nn.MultiheadAttention(heads, size, key=_KEY, **_BIASES),
}


def _inputs(layer: Layer) -> tuple[np.ndarray, ...]:
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "group_norm": ((*layer.sizes[1:], 2),),
        "batch_norm": ((*layer.sizes, 2, 2),),
        "conv1d": ((layer.sizes[0], 8),),
        "conv2d": ((layer.sizes[0], 8, 8),),
        "conv2d_no_bias": ((layer.sizes[0], 8, 8),),
        "conv_transpose2d": ((layer.sizes[0], 2, 2),),
        "lstm": (layer.sizes[:1], layer.sizes[1:], layer.sizes[1:]),
        "gru": (layer.sizes[:1], layer.sizes[1:]),
        "attention": ((3, layer.sizes[-1]),) * 3,
    }
    random = np.random.default_rng(0)
    default = (layer.sizes[:1],)
    return tuple(
        random.normal(size=shape).astype(np.float32) for shape in shapes.get(layer.kind, default)
    )


def _torch_output(layer: Layer, made: Any) -> np.ndarray:
    if isinstance(made, torch.Tensor):
        return (made.T if layer.kind == "turned" else made).numpy()
    with torch.no_grad():
        if layer.kind == "embedding":
            return made(torch.tensor([1]))[0].numpy()
        first, *others = (torch.from_numpy(array)[None] for array in _inputs(layer))
        arguments = (first, tuple(others)) if layer.kind == "lstm" else (first, *others)
        output = made(*arguments)
    return (output[0] if isinstance(output, tuple) else output)[0].numpy()


def _eqx_output(layer: Layer, made: Any, state: Any) -> np.ndarray:
    if isinstance(made, jax.Array):
        return np.asarray(made)
    if layer.kind == "embedding":
        return np.asarray(made(1))
    first, *others = map(jnp.asarray, _inputs(layer))
    match layer.kind:
        case "batch_norm":
            output = made(first, state)[0]
        case "lstm":
            output = made(first, tuple(others))[0]
        case _:
            output = made(first, *others)
    return np.asarray(output)
