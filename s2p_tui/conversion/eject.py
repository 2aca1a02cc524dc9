"""A mapping as a standalone Python file that loads a checkpoint, without this program.

One line per leaf says what fills it. The functions it calls compute what `evaluate` does, on whole
arrays; only those that are needed are in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite
from typing import get_args

from s2p_tui.alignment.transform import EntryShape, Expr, Joining, Take, keys_of, nodes_of
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.formats.memory import LABEL


def loader_of(
    plan: Plan,
    shapes: EntryShape,
    unused: Iterable[str],
    copies: Iterable[str],
    made_for: tuple[str, str],
) -> str:
    """Return the Python file of a plan.

    Args:
        plan: The plan.
        shapes: Gives the shape of the entry of a key.
        unused: Keys that no leaf takes.
        copies: Keys that no leaf takes and that have to be the same as one that a leaf does.
        made_for: Names of the checkpoint and of the skeleton, for its docstring.
    """
    sources = [one.source for one in plan.instructions if one.source is not None]
    needed = {_function(node) for source in sources for node in nodes_of(source)}
    for name in ("weight_norm", "stack", "concat", "sum", "scale", "spectral_norm"):
        needed.update(_NEEDS[name] if name in needed else ())
    used = dict.fromkeys(key for source in sources for key in keys_of(source))
    names = (repr(name)[1:-1].replace('"', "'").replace("\\", "/") for name in made_for)
    made_of, like = names
    given = "state_dict" if made_of == LABEL else f'"{made_of}"'
    head = _HEAD.replace("@source", made_of).replace("@target", like).replace("@checkpoint", given)
    tables = [
        _table("ENTRIES", [f"{key!r}: {shapes(key)!r}," for key in used], "{}"),
        _table("COPIES", [f"{key!r}," for key in copies]),
        _table("UNUSED", [f"{key!r}," for key in unused]),
        _table("LEAVES", map(_line, plan.instructions)),
    ]
    functions = [text for name, text in _FUNCTIONS.items() if name in needed]
    return "\n\n".join([head, *functions, "\n\n".join(tables)])


def _table(name: str, lines: Iterable[str], brackets: str = "[]") -> str:
    inside = "".join(f"    {line}\n" for line in lines)
    start, stop = brackets
    return f"{name} = {start}\n{inside}{stop}\n" if inside else f"{name} = {brackets}\n"


def _line(instruction: Instruction) -> str:
    leaf, source = instruction.leaf, instruction.source
    made = "None" if source is None else f"lambda entry: {_code(source)}"
    return f"({leaf.path!r}, {leaf.shape!r}, {instruction.dtype!r}, {made}),"


def _code(source: Expr) -> str:
    """Return a source as Python code."""
    if isinstance(source, Take):
        return f"entry({source.key!r})"
    operands = [_code(operand) for operand in source.operands]
    of = [f"[{', '.join(operands)}]"] if isinstance(source, get_args(Joining)) else operands
    own = [name for name in source.__struct_fields__ if name != "of"]
    settings = [_value(getattr(source, name)) for name in own]
    return f"{_function(source)}({', '.join([*of, *settings])})"


def _value(value: object) -> str:
    if isinstance(value, float) and not isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _function(node: Expr) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(node).__name__).lower()


_NEEDS = {
    "weight_norm": ("norm", "wide"),
    "stack": ("alike", "wide"),
    "concat": ("alike", "wide"),
    "sum": ("wide",),
    "scale": ("wide",),
    "spectral_norm": ("wide",),
}
_HEAD = '''"""Load the weights of @source into a pytree like that of @target.

    model = load(@checkpoint, like)

`like` is the model to fill, abstract or not; a module with state is given as `(model, state)`.
LEAVES says what fills each leaf, in the order in which JAX flattens the pytree: its key path, shape
and dtype, then a function of the checkpoint's entries, or None where it keeps the value it has.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def load(checkpoint, like, key=None):
    """Return a pytree like `like`, filled from a checkpoint.

    Args:
        checkpoint: A .safetensors file, an index of several, a file that torch.save wrote, or a
            state dict in memory.
        like: The pytree to fill.
        key: Place of the state dict in a nested checkpoint, such as "model" or "ema.state_dict";
            None for the first that holds every entry that is needed.
    """
    entries = open_checkpoint(checkpoint, key)
    missing = [name for name in ENTRIES if name not in entries]
    unknown = sorted(set(entries) - set(ENTRIES) - set(COPIES) - set(UNUSED))
    if missing or unknown:
        raise ValueError(f"missing entries: {missing}; entries that no leaf takes: {unknown}")
    leaves, structure = jax.tree_util.tree_flatten(like)
    for name in COPIES:
        if not any(is_same(entries[name](), entries[other]()) for other in ENTRIES):
            raise ValueError(f"{name} is not used, and no copy of an entry that is")
    places = [place for place, leaf in enumerate(leaves) if is_filled(leaf)]
    if len(places) != len(LEAVES):
        raise ValueError(f"like has {len(places)} leaves, expected {len(LEAVES)}")
    for place, (path, shape, dtype, source) in zip(places, LEAVES, strict=True):
        leaf = leaves[place]
        if np.shape(leaf) != shape:
            raise ValueError(f"{path} has shape {np.shape(leaf)}, expected {shape}")
        if source is not None:
            array = source(lambda name: whole(name, entries))
            leaves[place] = as_leaf(leaf, cast(array.reshape(shape), jnp.dtype(dtype), path))
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(f"{path} has no source, and like holds no value for it")
    return jax.tree_util.tree_unflatten(structure, leaves)


def whole(name, entries):
    """Return an entry as an array of the shape that the leaves expect."""
    array = as_array(entries[name]())
    if array.shape != ENTRIES[name]:
        raise ValueError(f"{name} has shape {array.shape}, expected {ENTRIES[name]}")
    return array


def is_filled(leaf):
    """Return True for the leaves that Equinox saves."""
    is_array = eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    dtype = getattr(leaf, "dtype", None)
    return is_array and not (dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key))


def is_same(tensor, other):
    """Return True if two tensors hold the same numbers."""
    is_alike = tuple(tensor.shape) == tuple(other.shape) and tensor.dtype == other.dtype
    return is_alike and np.array_equal(as_array(tensor), as_array(other))


def as_leaf(leaf, array):
    """Return an array as the kind of value that a leaf is."""
    if isinstance(leaf, (bool, int, float, complex, np.generic)):
        return type(leaf)(array.item())
    if isinstance(leaf, np.ndarray) or jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array
    return jnp.asarray(array)


def cast(array, dtype, path):
    """Return an array in another dtype; numbers that do not fit it are an error."""
    with np.errstate(all="ignore"):
        found = array.astype(dtype, order="K")
    if jnp.issubdtype(dtype, jnp.inexact):
        fits = bool(np.all(np.isfinite(found) | ~np.isfinite(array)))
    else:
        fits = np.array_equal(found.astype(array.dtype), array)
        fits = fits and np.array_equal(found < 0, array < 0)
    if not fits:
        raise ValueError(f"{path}: its {array.dtype} numbers do not fit {dtype}")
    return found


def as_array(tensor):
    """Return a tensor of PyTorch, or an array, as a NumPy array."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor, name = tensor.detach().cpu(), str(tensor.dtype).removeprefix("torch.")
    if name.startswith(("bfloat", "float8")):
        import torch

        # NumPy has no such dtype: the same bits under the name that JAX gives it.
        bits = torch.int16 if tensor.element_size() == 2 else torch.uint8
        return tensor.contiguous().view(bits).numpy().view(jnp.dtype(name))
    return tensor.resolve_conj().resolve_neg().numpy()


def open_checkpoint(checkpoint, key):
    """Return functions that read the entries of a checkpoint, by key."""
    if isinstance(checkpoint, Mapping):
        return tensors_of(checkpoint, key)
    path = Path(checkpoint)
    if path.suffix == ".json":
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        return {n: read for shard in shards for n, read in safetensors_of(path.parent / shard)}
    if path.suffix == ".safetensors":
        return dict(safetensors_of(path))
    import torch

    return tensors_of(torch.load(path, map_location="cpu", weights_only=True), key)


def tensors_of(tree, key):
    """Return functions that read the tensors of the state dict within nested dictionaries."""
    for step in key.split(".") if key else ():
        tree = tree[step]
    waiting, found = [tree], []
    for node in waiting:
        tensors = dict(flattened(node))
        if all(name in tensors for name in ENTRIES):
            found.append(tensors)
        if not key:
            waiting += [child for child in node.values() if isinstance(child, Mapping)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} state dicts hold every entry that is needed: give a key")
    return found[0] if found else dict(flattened(tree))


def flattened(node, before=""):
    """Yield the tensors below a dictionary by their dotted names."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}.")
        elif hasattr(value, "shape"):
            yield f"{before}{name}", lambda value=value: value


def safetensors_of(path):
    """Yield functions that read the entries of a .safetensors file, mapped into memory."""
    names = {"F": "float", "I": "int", "U": "uint", "BF": "bfloat", "BOOL": "bool", "C": "complex"}
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size) if Path(path).stat().st_size > 8 + size else b""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        letters = entry["dtype"].rstrip("0123456789")
        dtype = names.get(letters, "") + entry["dtype"][len(letters) :]
        dtype = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}.get(entry["dtype"], dtype)
        start, stop = entry["data_offsets"]

        def read(dtype=dtype, start=start, stop=stop, shape=entry["shape"]):
            # Copied, as a tensor may start anywhere.
            return np.frombuffer(bytes(data[start:stop]), jnp.dtype(dtype)).reshape(shape)

        yield name, read
'''
_FUNCTIONS = {
    "constant": """def constant(value, shape):
    return np.full(shape, value)
""",
    "permute": """def permute(array, axes):
    return array.transpose(axes)
""",
    "flip": """def flip(array, axes):
    return np.flip(array, axes)
""",
    "reshape": """def reshape(array, shape):
    return array.reshape(shape)
""",
    "split": """def split(array, axis, start, stop):
    return array[(slice(None),) * axis + (slice(start, stop),)]
""",
    "broadcast": """def broadcast(array, shape):
    return np.broadcast_to(array, shape)
""",
    "wide": '''def wide(array):
    """Return an array in a dtype that sums and products lose little in."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(np.float32) if array.dtype.itemsize < 4 else array
    is_whole = array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer)
    return array.astype(np.int64) if is_whole and array.dtype.itemsize < 8 else array
''',
    "alike": '''def alike(arrays):
    """Return arrays in dtypes that NumPy can join."""
    return arrays if len({array.dtype for array in arrays}) == 1 else list(map(wide, arrays))
''',
    "stack": """def stack(arrays, axis):
    return np.stack(alike(arrays), axis)
""",
    "concat": """def concat(arrays, axis):
    return np.concatenate(alike(arrays), axis)
""",
    "sum": """def sum(arrays):
    total = wide(arrays[0])
    for array in arrays[1:]:
        total = total + wide(array)
    return total
""",
    "scale": """def scale(array, factor):
    return wide(array) * factor
""",
    "norm": '''def norm(array, axes):
    """Return Euclidean norms over axes, which stay with size 1, as float64."""
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    shape = [1 if axis in axes else size for axis, size in enumerate(array.shape)]
    rows = np.abs(array).astype(np.float64).transpose(*kept, *axes)
    rows = np.ascontiguousarray(rows).reshape(*[array.shape[axis] for axis in kept], -1)
    return np.sqrt(np.square(rows).sum(-1)).reshape(shape)
''',
    "weight_norm": '''def weight_norm(arrays):
    """Return g * v / |v|, the norm over the axes along which g has size 1."""
    magnitude, weight = wide(arrays[0]), wide(arrays[1])
    if not magnitude.shape:
        magnitude = magnitude.reshape((1,) * weight.ndim)
    axes = tuple(axis for axis, size in enumerate(magnitude.shape) if size == 1)
    return weight * (magnitude / norm(arrays[1], axes)).astype(weight.dtype)
''',
    "spectral_norm": '''def spectral_norm(arrays, axis):
    """Return W / (u W v), the rows of W being those along an axis."""
    weight, left, right = arrays
    part = np.moveaxis(weight.astype(np.float64), axis, 0)
    right = right.reshape(part.shape[1:]).astype(np.float64)
    sigma = float(np.sum(np.tensordot(left.astype(np.float64), part, 1) * right))
    weight = wide(weight)
    return weight / weight.dtype.type(sigma)
''',
}
"""In the order they are written; each is the node of its name over whole arrays."""
