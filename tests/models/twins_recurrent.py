"""GRUs and LSTMs: cells, layers, both directions, a tagger."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from tests.models.twin import normal, tokens, twin
from tests.models.twins_rules import Leaves, gru_bias, lstm, recurrent, same, weight

_IN, _HIDDEN, _LENGTH = 3, 4, 5


def _output(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module(x)[0]


class Layer(eqx.Module):
    """A recurrent layer: a cell scanned over the sequence."""

    cell: eqx.nn.GRUCell | eqx.nn.LSTMCell
    reverse: bool = eqx.field(static=True, default=False)

    def __call__(self, xs: jax.Array) -> jax.Array:
        start = jnp.zeros(self.cell.hidden_size)
        plain = isinstance(self.cell, eqx.nn.GRUCell)

        def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            carry = self.cell(x, carry)
            return carry, carry if plain else carry[0]

        carry = start if plain else (start, start)
        return jax.lax.scan(step, carry, xs, reverse=self.reverse)[1]


class Stack(eqx.Module):
    """Recurrent layers, one on the other."""

    cells: list[Any]

    def __init__(self, cell: Any = eqx.nn.LSTMCell, *, key: jax.Array, **options: Any) -> None:
        keys = jax.random.split(key)
        self.cells = [
            cell(size, _HIDDEN, key=k, **options)
            for size, k in zip((_IN, _HIDDEN), keys, strict=True)
        ]

    def __call__(self, xs: jax.Array) -> jax.Array:
        for cell in self.cells:
            xs = Layer(cell)(xs)
        return xs


class BothWays(eqx.Module):
    """A bidirectional layer."""

    forward: Layer
    backward: Layer

    def __init__(
        self, size: int, cell: Any = eqx.nn.LSTMCell, *, key: jax.Array, **options: Any
    ) -> None:
        first, second = jax.random.split(key)
        self.forward = Layer(cell(size, _HIDDEN, key=first, **options))
        self.backward = Layer(cell(size, _HIDDEN, key=second, **options), reverse=True)

    def __call__(self, xs: jax.Array) -> jax.Array:
        return jnp.concatenate([self.forward(xs), self.backward(xs)], -1)


class Deep(eqx.Module):
    """A bidirectional LSTM on another."""

    layers: list[BothWays]

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key)
        sizes = (_IN, 2 * _HIDDEN)
        self.layers = [BothWays(size, key=k) for size, k in zip(sizes, keys, strict=True)]

    def __call__(self, xs: jax.Array) -> jax.Array:
        for layer in self.layers:
            xs = layer(xs)
        return xs


class Tagger(eqx.Module):
    """Words to tags."""

    tags: eqx.nn.Linear
    words: eqx.nn.Embedding
    encoder: BothWays

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.tags = eqx.nn.Linear(2 * _HIDDEN, 5, key=keys[0])
        self.words = eqx.nn.Embedding(9, 6, key=keys[1])
        self.encoder = BothWays(6, key=keys[2])

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jax.vmap(self.tags)(self.encoder(jax.vmap(self.words)(ids)))


class TorchTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(9, 6)
        self.lstm = nn.LSTM(6, _HIDDEN, batch_first=True, bidirectional=True)
        self.hidden2tag = nn.Linear(2 * _HIDDEN, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.hidden2tag(self.lstm(self.word_embeddings(ids))[0])


def _gru(leaf: str, suffix: str) -> Leaves:
    return {**recurrent(leaf, "", suffix), **gru_bias(leaf, "", _HIDDEN, suffix)}


def _lstm_both(leaf: str, key: str, layer: int = 0) -> Leaves:
    return {
        **lstm(f"{leaf}.forward.cell", key, f"_l{layer}"),
        **lstm(f"{leaf}.backward.cell", key, f"_l{layer}_reverse"),
    }


RECURRENT = (
    twin(
        "gru_cell",
        lambda: nn.GRUCell(_IN, _HIDDEN),
        lambda key: eqx.nn.GRUCell(_IN, _HIDDEN, key=key),
        (normal(1, 2, _IN), normal(2, 2, _HIDDEN)),
        {**recurrent("", ""), **gru_bias("", "", _HIDDEN)},
    ),
    twin(
        "gru",
        lambda: nn.GRU(_IN, _HIDDEN, batch_first=True),
        lambda key: Layer(eqx.nn.GRUCell(_IN, _HIDDEN, key=key)),
        (2, _LENGTH, _IN),
        {**recurrent(".cell", "", "_l0"), **gru_bias(".cell", "", _HIDDEN, "_l0")},
        torch_call=_output,
    ),
    twin(
        "gru_no_bias",
        lambda: nn.GRU(_IN, _HIDDEN, batch_first=True, bias=False),
        lambda key: Layer(eqx.nn.GRUCell(_IN, _HIDDEN, use_bias=False, key=key)),
        (2, _LENGTH, _IN),
        recurrent(".cell", "", "_l0"),
        torch_call=_output,
    ),
    twin(
        "gru_square",
        lambda: nn.GRU(_HIDDEN, _HIDDEN, batch_first=True),
        lambda key: Layer(eqx.nn.GRUCell(_HIDDEN, _HIDDEN, key=key)),
        (2, _LENGTH, _HIDDEN),
        {**recurrent(".cell", "", "_l0"), **gru_bias(".cell", "", _HIDDEN, "_l0")},
        torch_call=_output,
    ),
    twin(
        "gru_cell_no_bias",
        lambda: nn.GRUCell(_IN, _HIDDEN, bias=False),
        lambda key: eqx.nn.GRUCell(_IN, _HIDDEN, use_bias=False, key=key),
        (normal(1, 2, _IN), normal(2, 2, _HIDDEN)),
        recurrent("", ""),
    ),
    twin(
        "gru_two_layers",
        lambda: nn.GRU(_IN, _HIDDEN, 2, batch_first=True),
        lambda key: Stack(eqx.nn.GRUCell, key=key),
        (2, _LENGTH, _IN),
        {**_gru(".cells[0]", "_l0"), **_gru(".cells[1]", "_l1")},
        torch_call=_output,
    ),
    twin(
        "gru_bidirectional",
        lambda: nn.GRU(_IN, _HIDDEN, batch_first=True, bidirectional=True),
        lambda key: BothWays(_IN, eqx.nn.GRUCell, key=key),
        (2, _LENGTH, _IN),
        {**_gru(".forward.cell", "_l0"), **_gru(".backward.cell", "_l0_reverse")},
        torch_call=_output,
    ),
    twin(
        "lstm_two_layers_no_bias",
        lambda: nn.LSTM(_IN, _HIDDEN, 2, batch_first=True, bias=False),
        lambda key: Stack(key=key, use_bias=False),
        (2, _LENGTH, _IN),
        {**recurrent(".cells[0]", "", "_l0"), **recurrent(".cells[1]", "", "_l1")},
        torch_call=_output,
    ),
    twin(
        "lstm_bidirectional_no_bias",
        lambda: nn.LSTM(_IN, _HIDDEN, batch_first=True, bidirectional=True, bias=False),
        lambda key: BothWays(_IN, key=key, use_bias=False),
        (2, _LENGTH, _IN),
        {
            **recurrent(".forward.cell", "", "_l0"),
            **recurrent(".backward.cell", "", "_l0_reverse"),
        },
        torch_call=_output,
    ),
    twin(
        "lstm_cell_no_bias",
        lambda: nn.LSTMCell(_IN, _HIDDEN, bias=False),
        lambda key: eqx.nn.LSTMCell(_IN, _HIDDEN, use_bias=False, key=key),
        (normal(1, 2, _IN), normal(2, 2, _HIDDEN), normal(3, 2, _HIDDEN)),
        recurrent("", ""),
        torch_call=lambda cell, x, h, c: cell(x, (h, c))[0],
        eqx_call=lambda cell, x, h, c: cell(x, (h, c))[0],
    ),
    twin(
        "lstm_cell",
        lambda: nn.LSTMCell(_IN, _HIDDEN),
        lambda key: eqx.nn.LSTMCell(_IN, _HIDDEN, key=key),
        (normal(1, 2, _IN), normal(2, 2, _HIDDEN), normal(3, 2, _HIDDEN)),
        lstm("", ""),
        torch_call=lambda cell, x, h, c: cell(x, (h, c))[0],
        eqx_call=lambda cell, x, h, c: cell(x, (h, c))[0],
    ),
    twin(
        "lstm",
        lambda: nn.LSTM(_IN, _HIDDEN, batch_first=True),
        lambda key: Layer(eqx.nn.LSTMCell(_IN, _HIDDEN, key=key)),
        (2, _LENGTH, _IN),
        lstm(".cell", "", "_l0"),
        torch_call=_output,
    ),
    twin(
        "lstm_no_bias",
        lambda: nn.LSTM(_IN, _HIDDEN, batch_first=True, bias=False),
        lambda key: Layer(eqx.nn.LSTMCell(_IN, _HIDDEN, use_bias=False, key=key)),
        (2, _LENGTH, _IN),
        recurrent(".cell", "", "_l0"),
        torch_call=_output,
    ),
    twin(
        "lstm_two_layers",
        lambda: nn.LSTM(_IN, _HIDDEN, 2, batch_first=True),
        lambda key: Stack(key=key),
        (2, _LENGTH, _IN),
        {**lstm(".cells[0]", "", "_l0"), **lstm(".cells[1]", "", "_l1")},
        torch_call=_output,
    ),
    twin(
        "lstm_bidirectional",
        lambda: nn.LSTM(_IN, _HIDDEN, batch_first=True, bidirectional=True),
        lambda key: BothWays(_IN, key=key),
        (2, _LENGTH, _IN),
        _lstm_both("", ""),
        torch_call=_output,
    ),
    twin(
        "lstm_two_layers_bidirectional",
        lambda: nn.LSTM(_IN, _HIDDEN, 2, batch_first=True, bidirectional=True),
        lambda key: Deep(key=key),
        (2, _LENGTH, _IN),
        {**_lstm_both(".layers[0]", ""), **_lstm_both(".layers[1]", "", 1)},
        torch_call=_output,
    ),
    twin(
        "lstm_tagger",
        TorchTagger,
        lambda key: Tagger(key=key),
        tokens(9, 2, _LENGTH),
        {
            **same(".tags", "hidden2tag"),
            **weight(".words", "word_embeddings"),
            **_lstm_both(".encoder", "lstm"),
        },
    ),
)
