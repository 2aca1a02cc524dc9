"""Layers that no Equinox layer stands for: what would be lost or wrong blocks and is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import pytest
import torch
from torch import nn

from s2p_tui.errors import S2PError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session

KEY = jax.random.PRNGKey(0)
BIASES = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}


def _cells(count: int, size: int) -> list[eqx.nn.LSTMCell]:
    return [eqx.nn.LSTMCell(size if n == 0 else 4, 4, key=KEY) for n in range(count)]


def _square() -> eqx.nn.Linear:
    return eqx.nn.Linear(4, 4, key=KEY)


def _blocks(norm: nn.Module) -> nn.Module:
    layers = lambda: {"up": nn.Linear(4, 4), "norm": norm, "down": nn.Linear(4, 4)}  # noqa: E731
    return nn.Sequential(*(nn.ModuleDict(layers()) for _ in range(2)))


def _scaled(layer: nn.Module) -> nn.Module:
    layer.register_buffer("weight_scale_inv", torch.tensor([0.5]))
    return layer


def _batch_norm(mode: Any) -> Callable[[], Any]:
    return lambda: eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode=mode)


REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "an LSTM with a projection": (
        lambda: nn.LSTM(3, 4, proj_size=2),
        lambda: eqx.nn.LSTMCell(3, 4, key=KEY),
        "no such entry",
    ),
    "two layers of an LSTM into one cell": (
        lambda: nn.LSTM(4, 4, 2),
        lambda: eqx.nn.LSTMCell(4, 4, key=KEY),
        "l1",
    ),
    "both directions of an LSTM into one cell": (
        lambda: nn.LSTM(3, 4, bidirectional=True),
        lambda: eqx.nn.LSTMCell(3, 4, key=KEY),
        "reverse",
    ),
    "an LSTM with biases into a cell without": (
        lambda: nn.LSTM(3, 4),
        lambda: eqx.nn.LSTMCell(3, 4, use_bias=False, key=KEY),
        "bias",
    ),
    "a GRU with biases into a cell without": (
        lambda: nn.GRUCell(3, 4),
        lambda: eqx.nn.GRUCell(3, 4, use_bias=False, key=KEY),
        "bias",
    ),
    "one layer of an LSTM into two cells": (
        lambda: nn.LSTM(4, 4),
        lambda: _cells(2, 4),
        "",
    ),
    "attention with keys and values added": (
        lambda: nn.MultiheadAttention(6, 2, add_bias_kv=True),
        lambda: eqx.nn.MultiheadAttention(2, 6, key=KEY, **BIASES),
        "bias_k",
    ),
    "attention with a bias where the leaf has one for queries alone": (
        lambda: nn.MultiheadAttention(6, 2),
        lambda: eqx.nn.MultiheadAttention(2, 6, key=KEY, use_query_bias=True),
        "bias",
    ),
    "attention with biases of keys and values of other sizes": (
        lambda: nn.MultiheadAttention(6, 2, kdim=5, vdim=4),
        lambda: eqx.nn.MultiheadAttention(2, 6, key_size=5, value_size=4, key=KEY),
        "bias",
    ),
    "a batch norm without statistics": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        _batch_norm("batch"),
        "",
    ),
    "a batch norm without statistics, mode ema": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        _batch_norm("ema"),
        "",
    ),
    "a linear layer's bias without a leaf": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
        lambda: eqx.nn.MLP(3, 2, 4, 1, use_bias=False, key=KEY),
        "bias",
    ),
    "a norm's bias without a leaf": (
        lambda: nn.LayerNorm(4),
        lambda: eqx.nn.LayerNorm(4, use_bias=False),
        "bias",
    ),
    "a norm between two layers of a list": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        lambda: eqx.nn.MLP(3, 2, 4, 1, key=KEY),
        "1.weight",
    ),
    "a norm of a block": (
        lambda: _blocks(nn.LayerNorm(4)),
        lambda: [{name: _square() for name in ("up", "down")} for _ in range(2)],
        "0.norm.weight of the same block",
    ),
    "weights with a scale beside them": (
        lambda: _scaled(nn.Linear(3, 4)),
        lambda: eqx.nn.Linear(3, 4, key=KEY),
        "weight_scale_inv",
    ),
    "slopes of each channel into one for all": (
        lambda: nn.PReLU(3),
        lambda: eqx.nn.PReLU(),
        "",
    ),
    "a kernel of other sizes with as many elements": (
        lambda: nn.Conv2d(4, 6, (2, 3)),
        lambda: eqx.nn.Conv2d(4, 6, (3, 2), key=KEY),
        "keeps PyTorch's layout",
    ),
    "a kernel of other groups with as many elements": (
        lambda: nn.Conv2d(2, 8, 2, groups=1),
        lambda: eqx.nn.Conv2d(4, 4, 2, groups=1, key=KEY),
        "",
    ),
    "a transposed convolution into a plain one": (
        lambda: nn.ConvTranspose2d(4, 6, 3),
        lambda: eqx.nn.Conv2d(4, 6, 3, key=KEY),
        "keeps PyTorch's layout",
    ),
    "a transposed convolution of other groups": (
        lambda: nn.ConvTranspose1d(4, 4, 3, groups=2),
        lambda: eqx.nn.ConvTranspose1d(2, 4, 3, groups=1, key=KEY),
        "",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.slow("runs layers in both frameworks")
def test_it_is_refused_and_the_rows_say_why(case: str, tmp_path: Path) -> None:
    make_torch, make_eqx, named = REFUSED[case]
    torch.save(make_torch().state_dict(), tmp_path / "model.pt")
    save_skeleton(tmp_path / "skeleton.eqx", make_eqx())
    arrangements: tuple[Literal["auto", "order"], ...] = ("auto", "order")
    for arrange in arrangements:
        session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx", arrange=arrange)
        reasons = [why for _, why in session.problems()]
        with pytest.raises(S2PError):
            session.convert(tmp_path / "out.eqx")
        session.close()
        assert reasons
        assert all(reasons)
        assert arrange == "order" or any(named in why for why in reasons), reasons
    assert not (tmp_path / "out.eqx").exists()
