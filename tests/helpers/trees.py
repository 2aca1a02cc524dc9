"""Random pytrees with every kind of leaf Equinox knows, and models with state."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

JAX_DTYPES = ("float32", "float16", "bfloat16", "int8", "int32", "uint8", "bool", "complex64")
NUMPY_DTYPES = ("float32", "float64", "int64", "uint16", "complex128")

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)


class Pair(eqx.Module):
    """A module with two children and a static field."""

    first: Any
    second: Any
    name: str = eqx.field(static=True, default="pair")


def random_array(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Moderate numbers, so that the casts the tests make are all defined."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    if kind.kind in "iu":
        return rng.integers(0, 100, shape).astype(kind)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    values = rng.normal(0, 10, shape)
    if kind.kind == "c":
        values = values + 1j * rng.normal(0, 10, shape)
    return np.asarray(values).astype(kind)


@st.composite
def jax_arrays(draw: st.DrawFn) -> jax.Array:
    return jnp.asarray(random_array(draw(st.sampled_from(JAX_DTYPES)), draw(shapes), draw(seeds)))


@st.composite
def numpy_arrays(draw: st.DrawFn) -> np.ndarray:
    array = random_array(draw(st.sampled_from(NUMPY_DTYPES)), draw(shapes), draw(seeds))
    layout = draw(st.sampled_from(["C", "F", "reversed"]))
    if layout == "reversed" and array.ndim:
        return array[::-1]
    return np.asarray(array, order="F" if layout == "F" else "C")


scalars = (
    st.floats(width=64)
    | st.integers(-(2**31), 2**31 - 1)
    | st.booleans()
    | st.complex_numbers(allow_nan=False)
    | st.floats(width=32).map(np.float32)
    | st.integers(0, 255).map(np.uint8)
    | st.integers(-(2**63), 2**63 - 1).map(np.int64)
    | st.booleans().map(np.bool_)
)
unsaved = st.sampled_from([None, "text", jnp.tanh])
leaves = jax_arrays() | jax_arrays() | numpy_arrays() | scalars | unsaved

trees = st.recursive(
    leaves,
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab/.'\"é", max_size=3), children, max_size=3)
        | st.builds(Pair, children, children)
    ),
    max_leaves=8,
)


class Net(eqx.Module):
    """A convolution, two stateful layers of different modes and a scalar leaf."""

    conv: eqx.nn.Conv2d
    norms: list[eqx.nn.BatchNorm]
    dropout: eqx.nn.Dropout

    def __init__(self, *, key: jax.Array, modes: tuple[str, ...] = ("ema", "batch")) -> None:
        self.conv = eqx.nn.Conv2d(2, 3, 3, key=key)
        self.norms = [eqx.nn.BatchNorm(3, f"axis{n}", mode=m) for n, m in enumerate(modes)]
        self.dropout = eqx.nn.Dropout(0.25)


def net_with_state(modes: tuple[str, ...] = ("ema", "batch")) -> tuple[Net, eqx.nn.State]:
    return eqx.nn.make_with_state(Net)(key=jax.random.PRNGKey(0), modes=modes)


def saved_leaves(tree: Any) -> list[Any]:
    """The leaves Equinox writes, in the order it writes them."""
    return [leaf for leaf in jax.tree_util.tree_leaves(tree) if eqx.is_array_like(leaf)]
