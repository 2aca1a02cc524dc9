"""A network under construction: a state dict, a pytree, and the right array for every leaf."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import numpy as np

Array = Any
Path = tuple[str | int, ...]
Make = Callable[..., Array]
_KEY = jax.random.PRNGKey(0)
_STEP = re.compile(r"[^.\[\]]+")
HEADS = 2


@dataclass(frozen=True)
class Entry:
    """One item of the state dict.

    Attributes:
        array: Its numbers.
        neutral: The number that stands for it where its layer has all else and not this; None
            where there is none.
        parameter: It holds numbers the model computes with, so it must not be lost.
    """

    array: Array
    neutral: float | None = None
    parameter: bool = True


@dataclass(frozen=True)
class Source:
    """The entries that make a leaf, and the way they do."""

    keys: tuple[str, ...]
    make: Make

    def array(self, arrays: Mapping[str, Array]) -> Array:
        return np.asarray(self.make(*(arrays[key] for key in self.keys)))


@jax.tree_util.register_pytree_with_keys_class
class Variable:
    """A leaf in a wrapper of its own, as `flax.nnx` keeps them."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        return ((jax.tree_util.GetAttrKey("value"), self.value),), None

    def tree_flatten(self) -> tuple[Any, None]:
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Variable:
        return cls(*children)


class OutIn(eqx.Module):
    """A user's own layer that computes `weight @ x`."""

    weight: Array


class InOut(eqx.Module):
    """A user's own layer that computes `x @ weight`."""

    weight: Array


class OutInBias(eqx.Module):
    weight: Array
    bias: Array


class InOutBias(eqx.Module):
    weight: Array
    bias: Array


class Affine(eqx.Module):
    """A user's own dense layer with short names, `x @ w + b`."""

    w: Array
    b: Array


class Dense(eqx.Module):
    kernel: Array
    bias: Array


class Scale(eqx.Module):
    weight: Array


class LayerScale(eqx.Module):
    gamma: Array


def same(array: Array) -> Array:
    return array


def turned(array: Array) -> Array:
    return array.T


def flipped_transposed(kernel: Array) -> Array:
    """PyTorch's transposed convolution (in, out, *k) as (out, in, *k), the window flipped."""
    return np.flip(kernel, tuple(range(2, kernel.ndim))).swapaxes(0, 1)


def hwio(kernel: Array) -> Array:
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def hwio_transposed(kernel: Array) -> Array:
    """PyTorch's transposed convolution (in, out, *k) as (*k, in, out), the window flipped."""
    return np.moveaxis(np.flip(kernel, tuple(range(2, kernel.ndim))), (0, 1), (-2, -1))


def part(number: int, count: int, axis: int = 0, make: Make = same) -> Make:
    """One of several equal parts of a fused entry."""
    return lambda array: make(np.split(array, count, axis)[number])


def between(start: int, stop: int, make: Make = same) -> Make:
    """Some rows of a fused entry."""
    return lambda array: make(array[start:stop])


def stacked(make: Make = same, axis: int = 0) -> Make:
    return lambda *arrays: np.stack([make(array) for array in arrays], axis)


def concatenated(axis: int = 0, make: Make = same) -> Make:
    return lambda *arrays: np.concatenate([make(array) for array in arrays], axis)


def parsed(path: str | Path) -> Path:
    """The steps of `blocks[0].attn.q`."""
    if not isinstance(path, str):
        return path
    return tuple(int(step) if step.isdigit() else step for step in _STEP.findall(path))


@cache
def _prototype(kind: str, sizes: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Any:
    made = dict(options) | ({} if kind.endswith("Norm") else {"key": _KEY})
    return eqx.filter_eval_shape(getattr(eqx.nn, kind), *sizes, **made)


def layer_of(kind: str, *sizes: Any, **options: Any) -> Any:
    """An Equinox layer with numbers of its own, as its class starts with; compiles nothing."""
    chance = np.random.default_rng(zlib.crc32(f"{kind}{sizes}{options}".encode()))

    def array(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if kind.endswith("Norm"):
            return np.full(leaf.shape, float(path[-1].name == "weight"), leaf.dtype)
        return chance.uniform(-0.3, 0.3, leaf.shape).astype(leaf.dtype)

    prototype = _prototype(kind, sizes, tuple(sorted(options.items())))
    return jax.tree_util.tree_map_with_path(array, prototype)


@dataclass
class Network:
    """What the builders write to.

    Attributes:
        square: All sizes asked for are the same.
        containers: "module" for classes with fields, "dict" for dictionaries, "nnx" for
            dictionaries whose leaves are variables with a value.
        tuples: Lists are tuples.
        state: The pytree is `(model, state)`.
        entries: The state dict, in order.
        sources: Per leaf the entries that make it; None where nothing of the checkpoint does.
        dtype: Dtype that the conversion is asked for.
        refused: There is no right answer.
        unshown: There is one, but nothing shows it, so that refusing is right too.
        scalars: Leaves that are Python scalars.
    """

    name: str
    square: bool = False
    containers: str = "module"
    tuples: bool = False
    state: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    sources: dict[Path, Source | None] = field(default_factory=dict)
    dtype: str | None = None
    refused: bool = False
    unshown: bool = False
    scalars: set[Path] = field(default_factory=set)
    _tree: dict[str | int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = np.random.default_rng(zlib.crc32(self.name.encode()))

    def size(self, size: int) -> int:
        return 8 if self.square else size

    # Entries

    def random(self, shape: Sequence[int]) -> Array:
        return self.chance.standard_normal(shape).astype("float32")

    def entry(
        self, key: str, *shape: int, neutral: float | None = None, parameter: bool = True
    ) -> str:
        assert key not in self.entries, key
        self.entries[key] = Entry(self.random(shape), neutral, parameter)
        return key

    def lost(self, key: str, *shape: int) -> None:
        """A parameter that the pytree has no leaf for: any conversion is wrong."""
        self.entry(key, *shape)

    def buffer(self, key: str, array: Array) -> None:
        """An entry that holds nothing a model needs."""
        self.entries[key] = Entry(np.asarray(array), parameter=False)

    def tie(self, key: str, to: str) -> None:
        """The same storage under a second name."""
        self.entries[key] = Entry(self.entries[to].array, parameter=False)

    # Leaves

    def leaf(
        self, path: str | Path, keys: str | Sequence[str], make: Make = same, fill: Any = None
    ) -> None:
        """A plain array that entries make."""
        steps = parsed(path)
        source = Source((keys,) if isinstance(keys, str) else tuple(keys), make)
        shape = source.array(self._arrays()).shape
        value = self.random(shape) if fill is None else np.full(shape, fill, "float32")
        if self.containers == "nnx":
            self._put(steps, Variable(value))
            steps = (*steps, "value")
        else:
            self._put(steps, value)
        self.sources[steps] = source

    def unfed(self, path: str | Path, *shape: int) -> None:
        """A leaf that nothing of the checkpoint makes: any conversion is wrong."""
        steps = parsed(path)
        self._put(steps, self.random(shape))
        self.sources[steps] = None

    def scalar(self, path: str, value: float, key: str | None = None) -> None:
        """A Python float; without an entry it keeps its value, and rightly so."""
        self._put(parsed(path), value)
        self.scalars.add(parsed(path))
        if key is not None:
            self.sources[parsed(path)] = Source((key,), lambda array: array.reshape(()))

    def layer(self, path: str | Path, layer: Any, /, **leaves: tuple[str | Sequence[str], Make]):
        """A module, whose leaves entries make."""
        steps = parsed(path)
        self._put(steps, layer)
        for name, (keys, make) in leaves.items():
            keys = (keys,) if isinstance(keys, str) else tuple(keys)
            self.sources[*steps, name] = Source(keys, make)

    def feed(self, path: str, keys: str | Sequence[str], make: Make = same) -> None:
        """The entries that make a leaf of a layer that is there already."""
        self.sources[parsed(path)] = Source((keys,) if isinstance(keys, str) else tuple(keys), make)

    def plain(self, key: str, path: str, *shape: int, make: Make = same) -> None:
        self.leaf(path, self.entry(key, *shape), make)

    # Layers

    def _bias(self, key: str, size: int, bias: bool) -> str | None:
        return self.entry(f"{key}.bias", size, neutral=0.0) if bias else None

    def linear(self, key: str, path: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        """`equinox.nn.Linear`."""
        found = {"weight": (self.entry(f"{key}.weight", outputs, inputs), same)}
        if bias:
            found["bias"] = (self.entry(f"{key}.bias", outputs, neutral=0.0), same)
        self.layer(path, layer_of("Linear", inputs, outputs, use_bias=bias), **found)

    def conv1d_gpt(self, key: str, path: str, outputs: int, inputs: int) -> None:
        """`equinox.nn.Linear` fed by an entry of GPT-2's, (in, out)."""
        self.layer(
            path,
            layer_of("Linear", inputs, outputs),
            weight=(self.entry(f"{key}.weight", inputs, outputs), turned),
            bias=(self.entry(f"{key}.bias", outputs, neutral=0.0), same),
        )

    def linear_of(
        self, path: str, weight: tuple[Any, Make], bias: tuple[Any, Make] | None = None
    ) -> None:
        """`equinox.nn.Linear` made of given entries."""
        keys, make = weight
        keys = (keys,) if isinstance(keys, str) else tuple(keys)
        outputs, inputs = Source(keys, make).array(self._arrays()).shape
        found = {"weight": weight} | ({"bias": bias} if bias else {})
        layer = layer_of("Linear", inputs, outputs, use_bias=bias is not None)
        self.layer(path, layer, **found)

    def dense(
        self,
        key: str,
        path: str,
        outputs: int,
        inputs: int,
        *,
        bias: bool = True,
        names: tuple[str, str] = ("kernel", "bias"),
    ) -> None:
        """Leaves as Flax names them, the kernel (in, out)."""
        self.leaf(f"{path}.{names[0]}", self.entry(f"{key}.weight", outputs, inputs), turned)
        if bias:
            self.leaf(f"{path}.{names[1]}", self.entry(f"{key}.bias", outputs))

    def own(
        self, cls: type, key: str, path: str, outputs: int, inputs: int, *, last: str = "weight"
    ) -> None:
        """A user's own class; (in, out) where its name says so, or its first field is no weight."""
        make = same if cls in (OutIn, OutInBias) else turned
        first, *others = (field.name for field in cls.__dataclass_fields__.values())
        entry = self.entry(f"{key}.{last}" if last else key, outputs, inputs)
        shape = make(self.entries[entry].array).shape
        found = {first: (entry, make)}
        values = [self.random(shape)]
        if others:
            found[others[0]] = (self.entry(f"{key}.bias", outputs), same)
            values.append(self.random((outputs,)))
        self.layer(path, cls(*values), **found)

    def norm(self, key: str, path: str, size: int, kind: str = "LayerNorm") -> None:
        """A norm of Equinox's; `RMSNorm` has no bias."""
        found = {"weight": (self.entry(f"{key}.weight", size), same)}
        if kind == "RMSNorm":
            layer = layer_of(kind, size, use_bias=False)
        else:
            found["bias"] = (self.entry(f"{key}.bias", size, neutral=0.0), same)
            layer = layer_of(kind, *((2, size) if kind == "GroupNorm" else (size,)))
        self.layer(path, layer, **found)

    def scale_norm(self, key: str, path: str, size: int, *, bias: bool = True) -> None:
        """Leaves as Flax names those of a norm."""
        self.leaf(f"{path}.scale", self.entry(f"{key}.weight", size), fill=1.0)
        if bias:
            self.leaf(f"{path}.bias", self.entry(f"{key}.bias", size), fill=0.0)

    def conv(
        self,
        key: str,
        path: str,
        outputs: int,
        inputs: int,
        window: int = 3,
        *,
        dims: int = 2,
        bias: bool = True,
        groups: int = 1,
    ) -> None:
        options = {"use_bias": bias, "groups": groups}
        layer = layer_of(f"Conv{dims}d", inputs, outputs, window, **options)
        kernel = self.entry(f"{key}.weight", outputs, inputs // groups, *[window] * dims)
        found = {"weight": (kernel, same)}
        if bias:
            name = self.entry(f"{key}.bias", outputs, neutral=0.0)
            found["bias"] = (name, lambda array: array.reshape(-1, *[1] * dims))
        self.layer(path, layer, **found)

    def conv_transpose(
        self, key: str, path: str, outputs: int, inputs: int, window: int = 2
    ) -> None:
        layer = layer_of("ConvTranspose2d", inputs, outputs, window)
        self.layer(
            path,
            layer,
            weight=(
                self.entry(f"{key}.weight", inputs, outputs, window, window),
                flipped_transposed,
            ),
            bias=(
                self.entry(f"{key}.bias", outputs, neutral=0.0),
                lambda array: array.reshape(-1, 1, 1),
            ),
        )

    def hwio(self, key: str, path: str, outputs: int, inputs: int, window: int = 3) -> None:
        """Leaves as Flax names those of a convolution, the kernel (h, w, in, out)."""
        kernel = self.entry(f"{key}.weight", outputs, inputs, window, window)
        self.leaf(f"{path}.kernel", kernel, hwio)
        self.leaf(f"{path}.bias", self.entry(f"{key}.bias", outputs))

    def embed(self, key: str, path: str, rows: int, size: int) -> str:
        name = self.entry(f"{key}.weight", rows, size)
        self.layer(path, layer_of("Embedding", rows, size), weight=(name, same))
        return name

    def batch_norm(self, key: str, path: str, size: int) -> None:
        """`equinox.nn.BatchNorm`, with its state where the network has one."""
        weight = self.entry(f"{key}.weight", size)
        bias = self.entry(f"{key}.bias", size, neutral=0.0)
        mean, var = self.statistics(key, size)
        norm = eqx.nn.BatchNorm(size, "batch", mode="ema")
        self.layer(path, norm, weight=(weight, same), bias=(bias, same))
        steps = parsed(path)
        self.sources[*steps, "mean"] = Source((mean,), same)
        self.sources[*steps, "var"] = Source((var,), same)
        self.sources[*steps, "first"] = Source((), lambda: np.asarray(False))

    def statistics(self, key: str, size: int) -> tuple[str, str]:
        mean = self.entry(f"{key}.running_mean", size)
        self.entries[f"{key}.running_var"] = Entry(np.abs(self.random((size,))) + 0.5)
        self.buffer(f"{key}.num_batches_tracked", np.asarray(7, "int64"))
        return mean, f"{key}.running_var"

    # The whole

    def _arrays(self) -> dict[str, Array]:
        return {key: entry.array for key, entry in self.entries.items()}

    def _put(self, steps: Path, value: Any) -> None:
        node = self._tree
        for step in steps[:-1]:
            node = node.setdefault(step, {})
        assert steps[-1] not in node, steps
        node[steps[-1]] = value

    def pytree(self, chance: random.Random | None = None, *, backwards: bool = False) -> Any:
        """The skeleton; with its fields in another order, where they have one."""
        model = self._built(self._tree, chance, backwards)
        return eqx.nn.make_with_state(lambda: model)() if self.state else model

    def _built(self, node: Any, chance: random.Random | None, backwards: bool) -> Any:
        if not isinstance(node, dict):
            return node
        built = {step: self._built(child, chance, backwards) for step, child in node.items()}
        if any(isinstance(step, int) for step in built):
            members = [built[number] for number in range(len(built))]
            return tuple(members) if self.tuples else members
        if self.containers != "module":
            return built
        names = list(built)
        if backwards:
            names.reverse()
        if chance is not None:
            chance.shuffle(names)
        return _class_of(tuple(names))(*(built[name] for name in names))


@cache
def _class_of(names: tuple[str, ...]) -> type:
    title = "".join(name.title().replace("_", "") for name in sorted(names))[:60]
    annotations = dict.fromkeys(names, Array)
    return type(eqx.Module)(title, (eqx.Module,), {"__annotations__": annotations})


def leaves_of(tree: Any) -> dict[Path, Any]:
    """The arrays and numbers of a pytree by their path; of a state, those of its layers."""
    found: dict[Path, Any] = {}
    if isinstance(tree, tuple) and len(tree) == 2 and isinstance(tree[1], eqx.nn.State):
        model, state = tree
        nodes = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_batch_norm)[0]
        for keys, node in nodes:
            if _is_batch_norm(node):
                mean, var = state.get(node.ema_state_index)
                first = state.get(node.ema_first_time_index)
                values = {"mean": mean, "var": var, "first": first}
                found |= {(*steps_of(keys), name): value for name, value in values.items()}
        tree = model
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        found[steps_of(keys)] = leaf
    return found


def _is_batch_norm(node: Any) -> bool:
    return isinstance(node, eqx.nn.BatchNorm)


def steps_of(keys: Sequence[Any]) -> Path:
    """The names and numbers in a key path."""
    return tuple(
        next(getattr(key, name) for name in ("name", "key", "idx") if hasattr(key, name))
        for key in keys
    )


NETWORKS: dict[str, Callable[[Network], None]] = {}


def network(build: Callable[[Network], None]) -> Callable[[Network], None]:
    """Register a network under its function's name."""
    NETWORKS[build.__name__] = build
    return build


def family(**settings: Any) -> Callable[[Callable[[Network, Any], None]], Any]:
    """Register a network once per setting."""

    def register(build: Callable[[Network, Any], None]) -> Any:
        for name, setting in settings.items():
            NETWORKS[f"{build.__name__}_{name}"] = partial(_with, build, setting)
        return build

    return register


def _with(build: Callable[[Network, Any], None], setting: Any, network: Network) -> None:
    build(network, setting)


def built(name: str, *, square: bool = False) -> Network:
    made = Network(name, square)
    NETWORKS[name](made)
    return made


def blocks(count: int = 3) -> Iterator[int]:
    yield from range(count)
