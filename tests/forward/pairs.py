"""Real pairs of models with the right alignment and inputs: what faults are put into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
import safetensors.torch
import torch
from torch import nn

from s2p_tui.alignment.transform import Expr, Sum, Take
from s2p_tui.cli.check.inputs import Examples
from tests.models.bert import make_minilm, minilm_folder, minilm_sources
from tests.models.minilm import SENTENCES, reference_model, tokenize
from tests.models.silero import TorchVad, Vad, silero_weights
from tests.models.twins import BY_NAME

TWINS = ("blocks", "resnet", "llama", "gpt2", "scan")


@dataclass(frozen=True)
class Pair:
    """A torch module with its weights, an Equinox tree, what fills it, and inputs."""

    name: str
    module: nn.Module
    tree: Any
    examples: Examples
    truth: Callable[[str], Expr | None]


@functools.cache
def pair(name: str) -> Pair:
    """Return the pair of that name."""
    return {"minilm": _minilm, "silero": _silero}.get(name, functools.partial(_twin, name))()


def _twin(name: str) -> Pair:
    twin = BY_NAME[name]
    assert twin.truth is not None
    module = twin.make_torch().eval()
    _make_noisy(module)
    examples = Examples(tuple(np.asarray(array) for array in twin.inputs), batched=True)
    return Pair(name, module, twin.make_eqx(), examples, twin.truth.__getitem__)


def _make_noisy(module: nn.Module) -> None:
    """Give all that is initialised to one number others, as training does."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and tensor.std() == 0:
                tensor += 0.3 * torch.rand(tensor.shape, generator=generator)


def _minilm() -> Pair:
    ids, mask = tokenize(SENTENCES[1:4])
    module = reference_model().eval()

    def truth(path: str) -> Expr | None:
        return Take(minilm_sources(path))

    return Pair("minilm", module, make_minilm(), Examples((ids, mask), batched=True), truth)


class _TorchVad(TorchVad):
    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return super().forward(x, (h, c))


class _Vad(eqx.Module):
    vad: Vad

    def __call__(self, x: jax.Array, h: jax.Array, c: jax.Array) -> jax.Array:
        return self.vad(x, (h, c))


def _silero() -> Pair:
    module = _TorchVad()
    module.load_state_dict(safetensors.torch.load_file(silero_weights()))
    rng = np.random.default_rng(0)
    shapes = ((3, 576), (3, 128), (3, 128))
    arrays = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def truth(path: str) -> Expr | None:
        key = path.removeprefix(".vad.")
        match key:
            case "lstm_cell.weight_ih" | "lstm_cell.weight_hh":
                return Take(key)
            case "lstm_cell.bias":
                return Sum((Take("lstm_cell.bias_ih"), Take("lstm_cell.bias_hh")))
            case _:
                return Take(key)

    tree = _Vad(Vad(key=jax.random.PRNGKey(0)))
    return Pair("silero", module.eval(), tree, Examples(arrays, batched=True), truth)


__all__ = ["TWINS", "Pair", "make_minilm", "minilm_folder", "pair"]
