"""A PyTorch model and the same network in Equinox, and which entry belongs in which leaf."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from s2p_tui.alignment.transform import Expr, keys_of
from s2p_tui.formats.pytree.skeleton import target_of

Arrays = tuple[np.ndarray, ...]
Truth = Mapping[str, Expr | None]
"""Per leaf, by key path: what fills it, or None for a gap that keeps the skeleton's value."""


def _hash(numbers: jax.Array) -> jax.Array:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        numbers = (numbers ^ (numbers >> np.uint32(shift))) * np.uint32(factor)
    return numbers


def _seeded(seed: jax.Array) -> jax.Array:
    return _hash(seed.astype(np.uint32) + np.uint32(1))[None]


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _bits(_hash(key + np.uint32(77)), 32, (*shape, 1))


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    count = jax.lax.iota(np.uint32, int(np.prod(shape, dtype=int)))
    low = _hash(key + count * np.uint32(0x9E3779B9))
    if width == 64:
        return ((low.astype(np.uint64) << np.uint64(32)) | _hash(low)).reshape(shape)
    return low.astype(f"uint{width}").reshape(shape)


QUICK = jax.extend.random.define_prng_impl(
    key_shape=(1,),
    seed=_seeded,
    split=_split,
    random_bits=_bits,
    fold_in=lambda key, data: _hash(key ^ data.astype(np.uint32)),
    name="quick",
    tag="quick",
)
"""A simple PRNG for initial values: the default one takes XLA up to a second to compile."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """One network written twice.

    Attributes:
        name: A Python identifier; `tests.models.twins:<name>` is `make_eqx`.
        make_torch: The torch module, the same numbers at every call, in eval mode.
        make_eqx: The pytree an Equinox user has: a module, or `(model, state)`; other numbers.
        inputs: Arguments of both forwards, the first axis being the batch.
        torch_call: The torch forward in the module's own mode.
        eqx_call: The Equinox forward of one example; with state it takes and returns that too.
        truth: What fills each leaf; None where the vocabulary of transforms cannot say it.
        also: Other truths with the same forward in inference.
        unused: Keys no leaf takes.
        checkpoint: What is given to `torch.save`.
        needs: The transform the vocabulary lacks, where `truth` is None.
        fold: Leaves by hand from the state dict's arrays, where `truth` is None.
        blind: Why neither names nor shapes show the truth, where they do not.
        train: What to compare after one training forward, of `(model, state)` or of the module.
        train_output: Whether the output of that forward is comparable too.
        tolerance: Largest allowed `max|Δ| / max|reference|` of the forwards.
        x64: Whether the Equinox side runs in JAX's 64-bit mode.
    """

    name: str
    make_torch: Callable[[], nn.Module]
    make_eqx: Callable[[], Any]
    inputs: Arrays
    torch_call: Callable[..., torch.Tensor]
    eqx_call: Callable[..., Any]
    truth: Truth | None
    also: tuple[Truth, ...] = ()
    unused: frozenset[str] = frozenset()
    checkpoint: Callable[[nn.Module], Any] = nn.Module.state_dict
    needs: str = ""
    fold: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None
    blind: str = ""
    train: Callable[[Any], np.ndarray] | None = None
    train_output: bool = True
    tolerance: float = 1e-4
    x64: bool = False

    def eqx_shapes(self) -> Any:
        """`make_eqx` with shapes and dtypes for arrays; initialises nothing."""
        with self.precision():
            return eqx.filter_eval_shape(self.make_eqx)

    def eqx_skeleton(self, truth: Truth) -> Any:
        """`make_eqx` where a gap of the truth keeps a value of it, otherwise its shapes alone:
        initialising takes XLA longer than most tests take.
        """
        shapes = self.eqx_shapes()
        leaves = target_of(shapes, "shapes").skeleton
        is_kept = any(truth[leaf.path] is None for leaf in leaves if leaf.kind == "array")
        return self.make_eqx() if is_kept else shapes

    def torch_forward(self, module: nn.Module) -> np.ndarray:
        """The output in eval mode, as float32 or wider."""
        return _torch_output(self, module.eval())

    def eqx_forward(self, tree: Any) -> np.ndarray:
        """The output in inference mode, as float32 or wider."""
        with self.precision():
            return _as_float(_inference(self.eqx_call, tree, self.inputs))

    def torch_train_step(self, module: nn.Module) -> np.ndarray:
        """What is comparable after one training forward of the module."""
        output = _torch_output(self, module.train())
        return self._after_training(output, module)

    def eqx_train_step(self, tree: Any) -> np.ndarray:
        """What is comparable after one training forward of `(model, state)`."""
        output, state = _training(self.eqx_call, tree, self.inputs)
        return self._after_training(_as_float(output), (tree[0], state))

    def _after_training(self, output: np.ndarray, trained: Any) -> np.ndarray:
        assert self.train is not None
        parts = [output] if self.train_output else []
        return np.concatenate([part.ravel() for part in (*parts, self.train(trained))])

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """JAX in 64-bit mode if the twin needs it."""
        with jax.enable_x64(True) if self.x64 else contextlib.nullcontext():
            yield


def twin(
    name: str,
    make_torch: Callable[[], nn.Module],
    make_eqx: Callable[[jax.Array], Any],
    inputs: tuple[int, ...] | Arrays,
    truth: Truth | None,
    *,
    unused: tuple[str, ...] = (),
    steps: int = 0,
    shake: float = 0.2,
    state: bool = False,
    torch_call: Callable[..., torch.Tensor] | None = None,
    eqx_call: Callable[..., Any] | None = None,
    x64: bool = False,
    **more: Any,
) -> Twin:
    """A twin of which only the interesting parts need to be given.

    Args:
        name: As in `Twin`.
        make_torch: The module as its constructor leaves it.
        make_eqx: The pytree, from a PRNG key.
        inputs: As in `Twin`, or the shape of one array of normal numbers.
        truth: As in `Twin`.
        unused: As in `Twin`.
        steps: Training forwards on other inputs that fill the running statistics.
        shake: Size of the noise added to every parameter, so that none stays 0 or 1.
        state: Make `(model, state)`.
        torch_call: As in `Twin`, by default the module's call.
        eqx_call: As in `Twin`, by default the module's call.
        x64: As in `Twin`.
        more: Other attributes of `Twin`.
    """
    assert name.isidentifier(), name
    seed = zlib.crc32(name.encode())
    if not isinstance(inputs[0], np.ndarray):
        inputs = (normal(seed, *inputs),)
    call = torch_call or _plain_call
    factory = eqx.nn.make_with_state(make_eqx) if state else make_eqx

    def build_torch() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = make_torch()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter += shake * torch.randn_like(parameter)
                for _ in range(steps):
                    call(module.train(), *(_other(array) for array in inputs))
        return module.eval()

    def build_eqx() -> Any:
        with jax.enable_x64(True) if x64 else contextlib.nullcontext():
            return factory(jax.random.key(seed, impl=QUICK))

    return Twin(
        name=name,
        make_torch=build_torch,
        make_eqx=build_eqx,
        inputs=inputs,
        torch_call=call,
        eqx_call=eqx_call or _plain_call,
        truth=truth,
        unused=frozenset(unused),
        x64=x64,
        **more,
    )


def unused_by(truth: Truth, keys: Mapping[str, Any]) -> set[str]:
    """Keys that no leaf takes."""
    used = {key for expr in truth.values() if expr is not None for key in keys_of(expr)}
    return set(keys) - used


def normal(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tokens(vocabulary: int, *shape: int) -> Arrays:
    """Token numbers, int32."""
    return (np.random.default_rng(vocabulary).integers(0, vocabulary, shape, np.int32),)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """`max|Δ| / max|expected|`; infinite where a number is not finite."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    return error if np.isfinite(error) else float("inf")


def _plain_call(model: Any, *inputs: Any) -> Any:
    return model(*inputs)


def _other(array: np.ndarray) -> torch.Tensor:
    if array.dtype.kind == "i":
        return torch.from_numpy(array.copy())
    return 0.5 + 1.5 * torch.randn(array.shape)


def _torch_output(twin: Twin, module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        output = twin.torch_call(module, *(torch.from_numpy(a.copy()) for a in twin.inputs))
    return output.to(torch.promote_types(output.dtype, torch.float32)).numpy()


def _as_float(array: jax.Array) -> np.ndarray:
    found = np.asarray(array)
    return found if found.dtype == np.float64 else found.astype(np.float32)


def _mapped(call: Callable[..., Any], tree: Any, inputs: Arrays) -> tuple[jax.Array, Any]:
    if isinstance(tree, tuple) and len(tree) == 2 and isinstance(tree[1], eqx.nn.State):
        axes = (None, *(0 for _ in inputs), None)
        batched = jax.vmap(call, in_axes=axes, out_axes=(0, None), axis_name="batch")
        return batched(tree[0], *inputs, tree[1])
    return jax.vmap(lambda *example: call(tree, *example))(*inputs), None


@eqx.filter_jit
def _inference(call: Callable[..., Any], tree: Any, inputs: Arrays) -> jax.Array:
    return _mapped(call, eqx.nn.inference_mode(tree), jax.tree.map(jnp.asarray, inputs))[0]


@eqx.filter_jit
def _training(call: Callable[..., Any], tree: Any, inputs: Arrays) -> tuple[jax.Array, Any]:
    return _mapped(call, eqx.nn.inference_mode(tree, value=False), inputs)
