"""Silero VAD, a trained detector of voices: convolutions and an LSTM cell, in both frameworks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

_BINS, _WIDTH = 129, 128


def silero_weights() -> Path:
    """The file of weights that the package brings; importing the package needs much more."""
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "data", "silero_vad_16k.safetensors")


class TorchVad(nn.Module):
    """One frame of 576 samples, with or without the state of those before."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, _WIDTH, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(_WIDTH, _WIDTH)
        self.final_conv = nn.Conv1d(_WIDTH, 1, 1)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = self.stft_conv(nn.functional.pad(x[:, None], (0, 64), "reflect"))
        x = torch.sqrt(x[:, :_BINS] ** 2 + x[:, _BINS:] ** 2)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(layer(x))
        hidden, _ = self.lstm_cell(x[:, :, 0], state)
        return torch.sigmoid(self.final_conv(torch.relu(hidden)[:, :, None]))[:, 0, 0]


class Vad(eqx.Module):
    """The same, of one frame."""

    stft_conv: eqx.nn.Conv1d
    conv1: eqx.nn.Conv1d
    conv2: eqx.nn.Conv1d
    conv3: eqx.nn.Conv1d
    conv4: eqx.nn.Conv1d
    lstm_cell: eqx.nn.LSTMCell
    final_conv: eqx.nn.Conv1d

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 7)
        self.stft_conv = eqx.nn.Conv1d(1, 2 * _BINS, 256, 128, use_bias=False, key=keys[0])
        self.conv1 = eqx.nn.Conv1d(_BINS, 128, 3, padding=1, key=keys[1])
        self.conv2 = eqx.nn.Conv1d(128, 64, 3, 2, padding=1, key=keys[2])
        self.conv3 = eqx.nn.Conv1d(64, 64, 3, 2, padding=1, key=keys[3])
        self.conv4 = eqx.nn.Conv1d(64, _WIDTH, 3, padding=1, key=keys[4])
        self.lstm_cell = eqx.nn.LSTMCell(_WIDTH, _WIDTH, key=keys[5])
        self.final_conv = eqx.nn.Conv1d(_WIDTH, 1, 1, key=keys[6])

    def __call__(self, x: jax.Array, state: tuple[jax.Array, jax.Array]) -> jax.Array:
        x = self.stft_conv(jnp.pad(x[None], ((0, 0), (0, 64)), mode="reflect"))
        x = jnp.sqrt(x[:_BINS] ** 2 + x[_BINS:] ** 2 + 1e-12)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = jax.nn.relu(layer(x))
        hidden, _ = self.lstm_cell(x[:, 0], state)
        return jax.nn.sigmoid(self.final_conv(jax.nn.relu(hidden)[:, None]))[0, 0]
